import { join } from 'node:path';
import type { Node } from '../agent/node.ts';
import { unpackLayer } from '../checkpoint/checkpoint.ts';
import { NAMES, readManifest } from '../checkpoint/manifest.ts';
import { checkImage } from '../checkpoint/restore.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerConfig, ImageSpec } from '../gen/cri.ts';
import type { SurgeryRequest } from '../gen/gantry/v1/agent.ts';
import type { Retained } from '../gen/gantry/v1/slots.ts';
import { writableLayer } from '../runtime/containerd.ts';
import { criuVersion } from '../runtime/criu.ts';

/** Who is to come into a slot, checked as far as that is possible before anything is touched. */
export interface Newcomer {
  /** One who was there before. */
  readonly retained?: Retained;
  /** Of one that is made. */
  readonly config?: ContainerConfig;
  /** CRIU's images, of one that is restored. */
  readonly images?: string;
  readonly tcpEstablished?: boolean;
  /** Puts files into it before it starts. */
  files?(id: string): Promise<void>;
}

/** The slot's configuration with what the request says. Errors: USAGE, IMAGE_MISSING, NOT_FOUND, NOT_FITTING. */
export async function newcomerFor(node: Node, base: ContainerConfig, request: SurgeryRequest): Promise<Newcomer> {
  const config = request.configJson === '' ? base : withJson(base, request.configJson);
  if (request.checkpoint !== '') return fromCheckpoint(node, base, request.checkpoint);
  const name = request.image || config.image?.userSpecifiedImage || config.image?.image || '';
  return { config: { ...config, image: await imageFor(node, name) } };
}

async function imageFor(node: Node, name: string): Promise<ImageSpec> {
  if (name === '') throw new GantryError('USAGE', 'which image? --image, or "image" in the configuration');
  const { image } = await node.cri.imageStatus(name);
  if (image === undefined) {
    throw new GantryError('IMAGE_MISSING', `node ${node.config.node} does not have image ${name}`, {
      hint: `pull it first: crictl pull ${name}`,
    });
  }
  return ImageSpec.fromPartial({ image: image.id, userSpecifiedImage: name });
}

/** As crictl takes it: field names of the CRI, or in lowerCamelCase. */
function withJson(base: ContainerConfig, text: string): ContainerConfig {
  let given: ContainerConfig;
  try {
    given = ContainerConfig.fromJSON(JSON.parse(text));
  } catch (error) {
    throw new GantryError('USAGE', `the configuration is no runtime.v1.ContainerConfig: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const named = Object.keys(JSON.parse(text) as object).map((key) =>
    key.replaceAll(/_([a-z])/g, (_all, letter: string) => letter.toUpperCase()),
  );
  const changes = Object.fromEntries(Object.entries(given).filter(([key]) => named.includes(key)));
  return { ...base, ...changes };
}

async function fromCheckpoint(node: Node, base: ContainerConfig, folder: string): Promise<Newcomer> {
  await criuVersion();
  const manifest = await readManifest(folder);
  await checkImage(node, manifest);
  const was = ContainerConfig.decode(Buffer.from(manifest.config, 'base64'));
  const here = new Set(base.mounts.map(({ containerPath }) => containerPath));
  const missing = was.mounts
    .filter(({ containerPath }) => !here.has(containerPath))
    .map(({ containerPath }) => containerPath);
  if (missing.length > 0) {
    throw new GantryError('NOT_FITTING', `the checkpoint has mounts that the slot has not: ${missing.join(', ')}`);
  }
  return {
    config: {
      ...base,
      image: ImageSpec.fromPartial({ image: manifest.image.id, userSpecifiedImage: manifest.image.name }),
    },
    images: join(folder, NAMES.images),
    tcpEstablished: manifest.tcpEstablished,
    async files(id) {
      const { snapshotter, snapshotKey } = await node.cri.describe(id);
      await unpackLayer(
        join(folder, NAMES.layer),
        await writableLayer(node.config.runtimeSocket, snapshotter, snapshotKey),
      );
    },
  };
}
