import type { Node } from '../agent/node.ts';
import type { Operation } from '../agent/operation.ts';
import type { TcpMode } from '../archive/layout.ts';
import { checkFits, thisHost } from '../checkpoint/fits.ts';
import { checkRestorable } from '../checkpoint/preflight.ts';
import { checkImage } from '../checkpoint/restore.ts';
import type { Images } from '../checkpoint/restore-container.ts';
import { checkRights } from '../checkpoint/rights.ts';
import { Saved } from '../checkpoint/saved.ts';
import { GantryError, messageOf } from '../errors.ts';
import { ContainerConfig, ImageSpec } from '../gen/cri.ts';
import type { SurgeryRequest } from '../gen/gantry/v1/agent.ts';
import type { Retained } from '../gen/gantry/v1/slots.ts';
import { writableLayer } from '../runtime/containerd.ts';

/** Who is to come into a slot, checked as far as that is possible before anything is touched. */
export interface Newcomer extends AsyncDisposable {
  /** One who was there before. */
  readonly retained?: Retained;
  /** Of one that is made. */
  readonly config?: ContainerConfig;
  /** What it is restored from, if it is. */
  readonly saved?: Images;
  readonly tcp?: TcpMode;
  /** Puts files into it before it starts. */
  files?(id: string): Promise<void>;
}

/** @param saved what it comes from, and that is not needed any longer once it is there */
export function newcomer(fields: Omit<Newcomer, typeof Symbol.asyncDispose>, saved?: Saved): Newcomer {
  return { ...fields, [Symbol.asyncDispose]: async () => saved?.[Symbol.asyncDispose]() };
}

/** The slot's configuration with what the request says. Errors: USAGE, IMAGE_MISSING, NOT_FOUND, NOT_FITTING. */
export async function newcomerFor(
  node: Node,
  { sandbox, base }: { readonly sandbox: string; readonly base: ContainerConfig },
  request: SurgeryRequest,
  operation: Operation,
): Promise<Newcomer> {
  const config = request.configJson === '' ? base : withJson(base, request.configJson);
  if (request.checkpoint !== '') {
    await checkRestorable(sandbox);
    return fromCheckpoint(node, base, request.checkpoint, operation);
  }
  const name = request.image || config.image?.userSpecifiedImage || config.image?.image || '';
  return newcomer({ config: { ...config, image: await imageFor(node, name) } });
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

async function fromCheckpoint(
  node: Node,
  base: ContainerConfig,
  path: string,
  operation: Operation,
): Promise<Newcomer> {
  const saved = await Saved.open(node, operation.id, path, { signal: operation.signal });
  try {
    const { manifest } = saved;
    await checkFits(saved.images, await thisHost());
    await checkImage(node, manifest);
    const here = new Set(base.mounts.map(({ containerPath }) => containerPath));
    const missing = saved.config.mounts
      .filter(({ containerPath }) => !here.has(containerPath))
      .map(({ containerPath }) => containerPath);
    if (missing.length > 0) {
      throw new GantryError('NOT_FITTING', `the checkpoint has mounts that the slot has not: ${missing.join(', ')}`);
    }
    const image = ImageSpec.fromPartial({ image: manifest.image.id, userSpecifiedImage: manifest.image.name });
    const fields = {
      config: { ...base, image },
      saved,
      tcp: manifest.tcp,
      async files(id: string): Promise<void> {
        const { snapshotter, snapshotKey, spec } = await node.cri.describe(id);
        await checkRights(saved.images, spec);
        const upper = await writableLayer(node.config.runtimeSocket, snapshotter, snapshotKey);
        await saved.unpackLayer(upper, true);
      },
    };
    return newcomer(fields, saved);
  } catch (error) {
    await saved[Symbol.asyncDispose]();
    throw error;
  }
}
