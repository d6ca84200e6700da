import { GantryError } from '../errors.ts';
import { type ContainerConfig, ContainerState, NamespaceMode } from '../gen/cri.ts';
import { type OciRuntime, runtimeOf } from '../runtime/containerd.ts';
import type { ContainerDetail, Cri } from '../runtime/cri.ts';
import { checkRuntime, criuVersion } from '../runtime/criu.ts';
import type { Saved } from './saved.ts';
import { volumesOf } from './volumes.ts';

/** Of containerd's configuration; without a name the node's default. */
const HANDLERS = ['', 'runc', 'crun'];

/** Everything that is known to prevent a dump, before anything is touched. Errors say which of them it was. */
export async function checkDumpable(container: ContainerDetail): Promise<void> {
  checkRunning(container);
  checkHandler(container.sandbox.runtimeHandler);
  const namespaces = container.config.linux?.securityContext?.namespaceOptions;
  checkOwnNetwork(container);
  if (namespaces?.ipc === NamespaceMode.NODE) throw unsupported("it uses the node's IPC namespace");
  if (namespaces !== undefined && namespaces.pid !== NamespaceMode.CONTAINER) {
    throw unsupported('it shares its PID namespace: a restore needs one of its own');
  }
  if (container.config.tty) throw unsupported('it has a terminal, which belongs to the shim');
  await checkRuntime(await runtimeOf(container.id));
}

function checkRunning({ state, name, id }: ContainerDetail): void {
  if (state === ContainerState.CONTAINER_RUNNING) return;
  throw new GantryError('NOT_RUNNING', `container ${name} (${id.slice(0, 13)}) is not running`, {
    hint: 'only a running container has a state to save',
  });
}

function checkOwnNetwork({ config }: ContainerDetail): void {
  if (config.linux?.securityContext?.namespaceOptions?.network === NamespaceMode.NODE)
    throw unsupported("it uses the node's network");
}

/** What a restore needs of this node, in a pod that is there. Errors: CRIU_MISSING, UNSUPPORTED. */
export async function checkRestorable(sandbox: string, saved: readonly Pick<Saved, 'manifest' | 'config'>[] = []) {
  const runtime = await runtimeOf(sandbox);
  await checkRuntime(runtime);
  for (const { manifest, config } of saved) checkSameRuntime(manifest.sandbox.runtimeHandler, runtime, config);
}

/**
 * Pure: runc and crun hide paths of a container with mounts of different kinds, which the other one does not know.
 * Errors: UNSUPPORTED, for a container with such paths.
 */
export function checkSameRuntime(handler: string, runtime: OciRuntime, { linux }: ContainerConfig): void {
  const saved: OciRuntime = handler === 'crun' ? 'crun' : 'runc';
  if (saved === runtime || (linux?.securityContext?.maskedPaths ?? []).length === 0) return;
  throw new GantryError(
    'UNSUPPORTED',
    `a checkpoint that ${saved} has made, with hidden paths, is not for ${runtime}`,
    {
      hint: `use a sandbox whose runtime handler is that of ${saved}`,
    },
  );
}

/** The same for a pod that is to be made. What the node's default is shows only then. */
export async function checkRestorableWith(handler: string): Promise<void> {
  checkHandler(handler);
  await (handler === 'crun' || handler === 'runc' ? checkRuntime(handler) : criuVersion());
}

/** Errors: UNSUPPORTED. */
function checkHandler(handler: string): void {
  if (HANDLERS.includes(handler)) return;
  throw new GantryError('UNSUPPORTED', `runtime handler "${handler}": only runc and crun have checkpoints`);
}

/**
 * What else prevents a migration of these containers of one sandbox: a kubelet that would start the pod again, others in it.
 *
 * @param how cold: what only a dump would need does not count
 */
export async function checkMovable(
  containers: readonly ContainerDetail[],
  cri: Cri,
  force: boolean,
  how: 'live' | 'cold' = 'live',
): Promise<void> {
  for (const container of containers) {
    if (how === 'live') await checkDumpable(container);
    else checkRunning(container);
    checkOwnNetwork(container);
    const foreign = volumesOf(container.config).find(({ name }) => name === '');
    if (foreign !== undefined) {
      throw unsupported(
        `${container.name} mounts ${foreign.hostPath} at ${foreign.path}: only the content of emptyDirs is moved`,
      );
    }
    if (!force && isManagedByKubelet(container)) {
      throw new GantryError(
        'MANAGED_BY_KUBELET',
        `a kubelet manages the pod of ${container.name}: it would start it here again`,
        {
          hint: 'stop that kubelet first, then use --force',
        },
      );
    }
  }
  const [first] = containers;
  const moving = containers.map(({ id }) => id);
  const others = (await cri.listContainers()).filter(
    ({ podSandboxId, id, state }) =>
      podSandboxId === first?.sandbox.id && !moving.includes(id) && state === ContainerState.CONTAINER_RUNNING,
  );
  if (others.length > 0) {
    const pod = first?.sandbox.config.metadata?.name ?? '';
    throw unsupported(
      `its pod holds ${others.length} more running container(s), which would stay behind: move the pod (gantry migrate ${pod})`,
    );
  }
}

/** Pods of a kubelet carry these (pkg/kubelet/kuberuntime/labels.go and types/constants.go of Kubernetes). */
function isManagedByKubelet({ sandbox }: ContainerDetail): boolean {
  return (
    sandbox.config.labels['io.kubernetes.pod.uid'] !== undefined ||
    sandbox.annotations['kubernetes.io/config.source'] !== undefined
  );
}

function unsupported(why: string): GantryError {
  return new GantryError('UNSUPPORTED', `the container cannot be moved: ${why}`);
}
