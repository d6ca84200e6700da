import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { GantryError } from '../errors.ts';
import { COMPRESSIONS, type Compression, checkSums, type Manifest } from './layout.ts';
import { ArchiveOutput } from './output.ts';
import { PlannedArchive } from './planned.ts';
import { Pump } from './pump.ts';
import { readArchive } from './reader.ts';
import { END, headerBlocks, type TarMember } from './tar.ts';
import { ArchiveWriter } from './writer.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-archive-'));
});
afterEach(() => rm(folder, { recursive: true }));

const LONG = randomBytes(300_000);

async function* inPieces(bytes: Buffer, size: number) {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** An archive of some members, some of which were written without their size being known first. */
async function write(compression: Compression, recipients: string[] = []): Promise<string> {
  const path = join(folder, 'a.tar');
  await using file = await open(path, 'w', 0o600);
  const output = await ArchiveOutput.open(file, compression, recipients);
  const writer = new ArchiveWriter(output);
  await writer.folder('checkpoint');
  if (output.canReserve) await writer.addStream('checkpoint/pages-1.img', inPieces(LONG, 70_000));
  else await writer.add('checkpoint/pages-1.img', LONG);
  await writer.add('checkpoint/inventory.img', 'inventory');
  await writer.add('config.dump', '{}');
  const members = Object.fromEntries(writer.sums);
  await writer.add('gantry.json', JSON.stringify({ members }));
  await writer.end();
  await output.end();
  return path;
}

describe.each(COMPRESSIONS)('an archive, compressed by %s', (compression) => {
  test('is read back as it was written, and by tar', async () => {
    const path = await write(compression);
    const { sums, manifest } = await readArchive(path, folder);
    expect(await readFile(join(folder, 'checkpoint/pages-1.img'))).toEqual(LONG);
    expect(await readFile(join(folder, 'config.dump'), 'utf8')).toBe('{}');
    expect(sums.get('checkpoint/pages-1.img')).toEqual({
      size: LONG.length,
      sha256: createHash('sha256').update(LONG).digest('hex'),
    });
    expect(() => checkSums(path, JSON.parse(manifest ?? '') as Manifest, sums)).not.toThrow();
    expect((await stat(join(folder, 'config.dump'))).mode & 0o777).toBe(0o600);
    expect(execFileSync('tar', ['-tf', path]).toString().split('\n').slice(0, 3)).toEqual([
      'checkpoint/',
      'checkpoint/pages-1.img',
      'checkpoint/inventory.img',
    ]);
    expect(execFileSync('tar', ['-xOf', path, 'checkpoint/pages-1.img']).equals(LONG)).toBe(true);
  });

  test('and encrypted, is read with the key and not without', async () => {
    const identity = await generateIdentity();
    const path = await write(compression, [await identityToRecipient(identity)]);
    expect((await readFile(path)).includes(LONG.subarray(0, 64))).toBe(false);
    const wrong = [await generateIdentity()];
    await expect(readArchive(path, undefined)).rejects.toMatchObject({
      reason: 'USAGE',
      message: expect.stringMatching(/encrypted/),
    });
    await expect(readArchive(path, undefined, { identities: wrong })).rejects.toMatchObject({ reason: 'USAGE' });
    const { sums } = await readArchive(path, undefined, { identities: [identity] });
    expect(sums.get('checkpoint/pages-1.img')?.size).toBe(LONG.length);
  });

  test('and cut off anywhere, or with a bit that has flipped, is an error or is not what its manifest says', async () => {
    const whole = await readFile(await write(compression));
    const path = join(folder, 'broken.tar');
    const damage = fc.oneof(
      fc.integer({ min: 0, max: whole.length - 1025 }).map((at) => whole.subarray(0, at)),
      fc.tuple(fc.integer({ min: 0, max: whole.length - 1025 }), fc.integer({ min: 0, max: 7 })).map(([at, bit]) => {
        const copy = Buffer.from(whole);
        copy[at] = (copy[at] ?? 0) ^ (1 << bit);
        return copy;
      }),
    );
    const sound = await readArchive(join(folder, 'a.tar'), undefined);
    await fc.assert(
      fc.asyncProperty(damage, async (bytes) => {
        await writeFile(path, bytes);
        try {
          const { sums, manifest } = await readArchive(path, undefined, { limit: 100_000_000 });
          checkSums(path, JSON.parse(manifest ?? '{"members": {}}') as Manifest, sums);
          // What is left are bytes without a meaning: dates, padding, a header of gzip.
          expect(sums).toEqual(sound.sums);
        } catch (error) {
          expect(error).toBeInstanceOf(error instanceof SyntaxError ? SyntaxError : GantryError);
          if (error instanceof GantryError) expect(['BAD_ARCHIVE', 'NO_SPACE']).toContain(error.reason);
        }
      }),
      { numRuns: 150 },
    );
  });
});

test('what comes out of FIFOs lies at pages of the file, and in the archive', async () => {
  const path = join(folder, 'a.tar');
  const fifos = [1, 2, 3, 4].map((id) => join(folder, `pages-${id}.img`));
  execFileSync('mkfifo', fifos);
  await using file = await open(path, 'w', 0o600);
  const output = await ArchiveOutput.open(file, 'none', []);
  const writer = new ArchiveWriter(output);
  await writer.folder('checkpoint');
  const at = output.raw;
  const pump = new Pump(fifos, file.fd, at?.at ?? 0);
  for (const [index, bytes] of [LONG, Buffer.alloc(0), LONG.subarray(0, 5000)].entries())
    await writeFile(fifos[index] ?? '', bytes);
  await writer.adopt('checkpoint/', await pump.end());
  await writer.add('config.dump', '{}');
  await writer.end();
  await output.end();
  const { sums } = await readArchive(path, undefined);
  expect([...sums.keys()]).toEqual([...[1, 2, 3].map((id) => `checkpoint/pages-${id}.img`), 'config.dump']);
  const bytes = await readFile(path);
  expect(bytes.indexOf(LONG.subarray(0, 100)) % 4096).toBe(0);
  expect(execFileSync('tar', ['-xOf', path, 'checkpoint/pages-3.img']).equals(LONG.subarray(0, 5000))).toBe(true);
});

test.each(COMPRESSIONS)(
  'an archive in one that is encrypted is as large as was said before, compressed by %s',
  async (how) => {
    const identity = await generateIdentity();
    const path = join(folder, 'a.tar');
    const pages = join(folder, 'pages-1.img');
    await writeFile(pages, LONG);
    const planned = new PlannedArchive();
    await planned.folder('checkpoint');
    await planned.take('checkpoint/pages-1.img', pages);
    await planned.add('config.dump', '{"ü": 1}');
    let text = '';
    await planned.finish('gantry.json', (sums) => {
      text = JSON.stringify({ members: Object.fromEntries(sums) });
      return text;
    });
    {
      await using file = await open(path, 'w', 0o600);
      const output = await ArchiveOutput.open(file, how, [await identityToRecipient(identity)]);
      const writer = new ArchiveWriter(output);
      await writer.add('pod.options', '{}');
      await writer.nest('main.tar', () => planned.writeTo(new ArchiveWriter(output)), planned.size);
      await writer.add('gantry.json', '{}');
      await writer.end();
      await output.end();
    }
    expect(await readdir(folder)).toEqual(['a.tar']);
    const { containers, manifest } = await readArchive(path, undefined, { identities: [identity] });
    const main = containers.get('main');
    expect(manifest).toBe('{}');
    expect(main?.manifest).toBe(text);
    const sums = main?.sums ?? new Map();
    expect(sums.get('checkpoint/pages-1.img')?.sha256).toBe(createHash('sha256').update(LONG).digest('hex'));
    expect(() => checkSums(path, JSON.parse(text) as Manifest, sums)).not.toThrow();
  },
);

test('an archive in another one that is not what was said is an error, and not a broken archive', async () => {
  await using file = await open(join(folder, 'a.tar'), 'w', 0o600);
  const output = await ArchiveOutput.open(file, 'none', []);
  const writer = new ArchiveWriter(output);
  await expect(writer.nest('main.tar', () => output.write(Buffer.alloc(10)), 11)).rejects.toThrow('was to have 11');
});

describe('an archive that means ill is refused:', () => {
  const file = (name: string, fields: Partial<TarMember> = {}) => [headerBlocks({ name, ...fields })];
  const spec = [headerBlocks({ name: 'spec.dump', size: 2 }), Buffer.from('{}'), Buffer.alloc(510)];
  const cases: Record<string, Buffer[]> = {
    'a path above it': file('../spec.dump'),
    'a path within that leads above': file('checkpoint/../../spec.dump'),
    'an absolute path': file('/spec.dump'),
    'a path with a NUL in a pax header': file('x', { pax: new Map([['path', Buffer.from('a\0b')]]) }),
    'a symbolic link': file('checkpoint/core-1.img', { type: 'symlink', target: '/etc/passwd' }),
    'a hard link': file('checkpoint/core-1.img', { type: 'link', target: 'spec.dump' }),
    'a device': file('checkpoint/core-1.img', { type: 'block', device: [8, 0] }),
    'a FIFO': file('checkpoint/core-1.img', { type: 'fifo' }),
    'a member that is in it twice': [...spec, ...spec],
    'a name that is in it twice, written in two ways': [...spec, ...file('./spec.dump')],
    'a size beyond its end': [headerBlocks({ name: 'spec.dump', size: 2 ** 40 })],
    'a pax header of many gigabytes': [
      (() => {
        const block = headerBlocks({ name: 'PaxHeader', size: 2 ** 33 });
        block.write('x', 156);
        return fixed(block);
      })(),
    ],
    'a manifest of many gigabytes': [headerBlocks({ name: 'gantry.json', size: 2 ** 33 })],
    'a negative size': [
      (() => {
        const block = headerBlocks({ name: 'spec.dump' });
        block.fill(0xff, 124, 136);
        return fixed(block);
      })(),
    ],
    'a type that nobody knows': [
      (() => {
        const block = headerBlocks({ name: 'spec.dump' });
        block.write('S', 156);
        return fixed(block);
      })(),
    ],
  };

  function fixed(block: Buffer): Buffer {
    block.fill(' ', 148, 156);
    const sum = block.reduce((total, byte) => total + byte, 0);
    block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    return block;
  }

  test.each(Object.entries(cases))('%s', async (_name, blocks) => {
    const path = join(folder, 'bad.tar');
    await writeFile(path, Buffer.concat([...blocks, END]));
    const into = await mkdtemp(join(folder, 'into-'));
    const before = await readdir(folder);
    await expect(readArchive(path, into)).rejects.toMatchObject({ reason: 'BAD_ARCHIVE' });
    expect(await readdir(folder)).toEqual(before);
    const made = await readdir(into, { recursive: true, withFileTypes: true });
    for (const entry of made) expect(entry.isFile() || entry.isDirectory()).toBe(true);
  });

  test('one that unpacks to more than there is room for', async () => {
    const path = join(folder, 'bomb.tar');
    const size = 64 * 1024 * 1024;
    const tar = [headerBlocks({ name: 'checkpoint/pages-1.img', size }), Buffer.alloc(size), END];
    await writeFile(path, execFileSync('gzip', ['-9'], { input: Buffer.concat(tar), maxBuffer: size }));
    expect((await stat(path)).size).toBeLessThan(100_000);
    const read = readArchive(path, undefined, { limit: size / 2 });
    await expect(read).rejects.toMatchObject({ reason: 'NO_SPACE' });
  });

  test('members of no meaning are passed over, and told', async () => {
    const path = join(folder, 'more.tar');
    await writeFile(path, Buffer.concat([...spec, ...file('artifacts/x'), ...file('checkpoint/a/b'), END]));
    expect(await readArchive(path, folder)).toMatchObject({ ignored: ['artifacts/x', 'checkpoint/a/b'] });
    expect(await readdir(join(folder, 'checkpoint'))).toEqual([]);
  });
});
