import { bad, CONFIG, SPEC, type TcpMode } from '../archive/layout.ts';
import { messageOf } from '../errors.ts';
import type { RuntimeSpec } from '../runtime/cri.ts';
import type { Checkpoint } from './open.ts';

/** Whose state a checkpoint is. Of another maker's, what its files tell: '' is what they do not. */
export interface Facts {
  readonly maker: 'gantry' | 'containerd' | 'CRI-O' | 'Podman' | 'unknown';
  readonly container: { readonly id: string; readonly name: string };
  readonly pod: { readonly id: string; readonly namespace: string; readonly name: string };
  readonly addresses: readonly string[];
  readonly image: { readonly name: string; readonly id: string };
  readonly node: string;
  /** ISO 8601. */
  readonly created: string;
  readonly criu: string;
  readonly kernel: string;
  readonly architecture: string;
  readonly runtime: string;
  /** What became of open TCP connections; '' when only the images could tell. */
  readonly connections: TcpMode | '';
  /** Of a folder that has only the pages written since: relative path to the folder before. */
  readonly parent?: string;
}

/** Errors: BAD_ARCHIVE, for a file of another maker that is no JSON. */
export async function readFacts(checkpoint: Checkpoint): Promise<Facts> {
  const { manifest } = checkpoint;
  if (manifest === undefined) return foreignFacts(checkpoint);
  const { container, sandbox, image, node } = manifest;
  return {
    maker: 'gantry',
    container: { id: word(container.id), name: container.name },
    pod: { id: word(sandbox.id), namespace: word(sandbox.namespace), name: word(sandbox.name) },
    addresses: Array.isArray(sandbox.addresses) ? sandbox.addresses.map(word) : [],
    image: { name: word(image.name), id: image.id },
    node: word(node?.name),
    created: word(manifest.created),
    criu: word(manifest.criu),
    kernel: word(node?.kernel),
    architecture: word(node?.architecture),
    runtime: word(sandbox.runtimeHandler) || 'default',
    connections: word(manifest.tcp) as TcpMode | '',
    ...(manifest.parent === undefined ? {} : { parent: manifest.parent.folder }),
  };
}

/** config.dump, as checkpointctl's ContainerConfig has it. */
interface ConfigDump {
  readonly id?: string;
  readonly name?: string;
  readonly rootfsImage?: string;
  readonly rootfsImageName?: string;
  readonly rootfsImageRef?: string;
  readonly runtime?: string;
  readonly createdTime?: string;
  readonly checkpointedTime?: string;
}

async function foreignFacts(checkpoint: Checkpoint): Promise<Facts> {
  const config = (await json<ConfigDump>(checkpoint, CONFIG)) ?? {};
  const { annotations = {} } = (await json<RuntimeSpec>(checkpoint, SPEC)) ?? {};
  /** The first that is there: containerd's (internal/cri/annotations), CRI-O's and kubelet's name of it. */
  const annotation = (...names: readonly string[]) => word(names.map((name) => annotations[name]).find(Boolean));
  const cri = 'io.kubernetes.cri';
  return {
    maker: makerOf(annotations),
    container: {
      id: word(config.id),
      name: annotation(`${cri}.container-name`, 'io.kubernetes.container.name') || word(config.name),
    },
    pod: {
      id: annotation(`${cri}.sandbox-id`, `${cri}-o.SandboxID`),
      namespace: annotation(`${cri}.sandbox-namespace`, 'io.kubernetes.pod.namespace'),
      name: annotation(`${cri}.sandbox-name`, 'io.kubernetes.pod.name'),
    },
    addresses: annotation(`${cri}-o.IP.0`) === '' ? [] : [annotation(`${cri}-o.IP.0`)],
    image: {
      name: word(config.rootfsImageName) || annotation(`${cri}.image-name`, `${cri}-o.ImageName`),
      id: word(config.rootfsImageRef) || word(config.rootfsImage),
    },
    node: '',
    created: word(config.checkpointedTime),
    criu: '',
    kernel: '',
    architecture: '',
    runtime: word(config.runtime),
    connections: '',
  };
}

function makerOf(annotations: Readonly<Record<string, string>>): Facts['maker'] {
  const names = Object.keys(annotations);
  if (names.some((name) => name.startsWith('io.kubernetes.cri-o.'))) return 'CRI-O';
  if (names.some((name) => name.startsWith('io.kubernetes.cri.'))) return 'containerd';
  return annotations['io.container.manager'] === 'libpod' ? 'Podman' : 'unknown';
}

async function json<T extends object>({ members, path }: Checkpoint, name: string): Promise<T | undefined> {
  const text = await members.text(name);
  if (text === undefined) return undefined;
  try {
    const value = JSON.parse(text) as T | null;
    if (typeof value === 'object' && value !== null) return value;
  } catch (error) {
    throw bad(path, `its ${name} is no JSON: ${messageOf(error)}`);
  }
  throw bad(path, `its ${name} is no object`);
}

/** Whatever stands where text should. */
export function word(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
