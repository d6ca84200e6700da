import { GantryError } from '../errors.ts';
import { ContainerState, NamespaceMode } from '../gen/cri.ts';
import type { ContainerDetail, Cri } from '../runtime/cri.ts';
import { checkRunc, criuVersion } from '../runtime/criu.ts';
import { volumesOf } from './volumes.ts';

/** Everything that is known to prevent a dump, before anything is touched. Errors say which of them it was. */
export async function checkDumpable(container: ContainerDetail): Promise<void> {
  if (container.state !== ContainerState.CONTAINER_RUNNING) {
    throw new GantryError('NOT_RUNNING', `container ${container.name} (${container.id.slice(0, 13)}) is not running`, {
      hint: 'only a running container has a state to save',
    });
  }
  const runtime = container.sandbox.runtimeHandler;
  if (runtime !== '' && runtime !== 'runc') {
    throw unsupported(`its runtime handler is "${runtime}": only runc can checkpoint here`);
  }
  const namespaces = container.config.linux?.securityContext?.namespaceOptions;
  if (namespaces?.network === NamespaceMode.NODE) throw unsupported("it uses the node's network");
  if (namespaces?.ipc === NamespaceMode.NODE) throw unsupported("it uses the node's IPC namespace");
  if (namespaces !== undefined && namespaces.pid !== NamespaceMode.CONTAINER) {
    throw unsupported('it shares its PID namespace: a restore needs one of its own');
  }
  if (container.config.tty) throw unsupported('it has a terminal, which belongs to the shim');
  await criuVersion();
  await checkRunc();
}

/** What else prevents a migration of these containers of one sandbox: a kubelet that would start the pod again, others in it. */
export async function checkMovable(containers: readonly ContainerDetail[], cri: Cri, force: boolean): Promise<void> {
  for (const container of containers) {
    await checkDumpable(container);
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
