import { mkdir, open, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Compression } from '../archive/layout.ts';
import { type Manifest, VERSION } from '../archive/layout.ts';
import { ArchiveOutput } from '../archive/output.ts';
import { END, headerBlocks, padded, type TarMember } from '../archive/tar.ts';
import { ArchiveWriter, type Sum } from '../archive/writer.ts';
import { smallCheckpoint } from '../criu/checkpoint.fixture.ts';

/*
 * Checkpoints for tests: the images of src/criu's fixture, in an archive or a folder as gantry checkpoint makes it.
 */

export interface FixtureOptions {
  readonly compression?: Compression;
  /** age recipients. */
  readonly recipients?: readonly string[];
  /** Images in the place of, or beside, those of the fixture. */
  readonly images?: Readonly<Record<string, Buffer>>;
  /** Other members, by name. */
  readonly members?: Readonly<Record<string, Buffer | string>>;
  /** Over what the manifest says; undefined for an archive of another maker. */
  readonly manifest?: Partial<Manifest> | undefined;
}

const SPEC = {
  annotations: {
    'io.kubernetes.cri.container-name': 'main',
    'io.kubernetes.cri.sandbox-name': 'server-0',
    'io.kubernetes.cri.sandbox-namespace': 'default',
  },
};

export function manifestText(members: ReadonlyMap<string, Sum>, changed: Partial<Manifest> = {}): string {
  const manifest: Manifest = {
    version: VERSION,
    created: '2026-11-20T10:00:00.000Z',
    node: { name: 'a', architecture: 'x64', kernel: '6.18.0' },
    criu: '4.2.1',
    container: { id: 'c0ffee', name: 'main', config: '' },
    sandbox: {
      ...{ id: '5a4db0', name: 'server-0', namespace: 'default', runtimeHandler: '', config: '' },
      addresses: ['10.108.1.2'],
    },
    volumes: [],
    image: { name: 'server:1', id: 'sha256:1' },
    tcp: 'established',
    processes: 2,
    members: Object.fromEntries(members),
    ...changed,
  };
  return JSON.stringify(manifest);
}

export async function writeArchive(path: string, options: FixtureOptions = {}): Promise<string> {
  const { compression = 'none', recipients = [], images = {}, members = {} } = options;
  await mkdir(dirname(path), { recursive: true });
  await using file = await open(path, 'w', 0o600);
  const output = await ArchiveOutput.open(file, compression, recipients);
  const writer = new ArchiveWriter(output);
  await writer.folder('checkpoint');
  const all = { ...smallCheckpoint(), ...images };
  for (const [name, bytes] of Object.entries(all)) {
    await writer.add(name === 'stats-dump' ? name : `checkpoint/${name}`, bytes);
  }
  const others = { 'spec.dump': JSON.stringify(SPEC), 'config.dump': '{"id": "c0ffee", "name": "main"}', ...members };
  for (const [name, bytes] of Object.entries(others)) await writer.add(name, bytes);
  const isForeign = 'manifest' in options && options.manifest === undefined;
  if (!isForeign) await writer.add('gantry.json', manifestText(writer.sums, options.manifest));
  await writer.end();
  await output.end();
  return path;
}

export async function writeFolder(path: string, { images = {}, manifest = {} }: FixtureOptions = {}): Promise<string> {
  await mkdir(join(path, 'checkpoint'), { recursive: true });
  const all = { ...smallCheckpoint(), ...images };
  for (const [name, bytes] of Object.entries(all)) {
    await writeFile(join(path, name === 'stats-dump' ? name : `checkpoint/${name}`), bytes);
  }
  await writeFile(join(path, 'criu.conf'), '');
  await writeFile(join(path, 'gantry.json'), manifestText(new Map(), manifest));
  return path;
}

/** An OCI layer. */
export function layer(...files: (Partial<TarMember> & { readonly name: string; readonly content?: string })[]): Buffer {
  const blocks = files.flatMap(({ content = '', ...member }) => {
    const bytes = Buffer.alloc(padded(content.length));
    bytes.write(content);
    return [headerBlocks({ mode: 0o644, ...member, size: content.length }), bytes];
  });
  return Buffer.concat([...blocks, END]);
}
