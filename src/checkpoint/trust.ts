import { GantryError } from '../errors.ts';
import { type ContainerConfig, NamespaceMode, type PodSandboxConfig } from '../gen/cri.ts';
import { volumesOf } from './volumes.ts';

/** Names of Kubernetes (RFC 1123), which become parts of paths. */
const NAME = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;
/** By these, runtimes are told to do more than what the configuration says. */
const TELLING = /^(cdi\.k8s\.io|org\.criu|run\.oci|io\.containerd|io\.katacontainers|.*\.nri\.io)/;

/** Errors: USAGE, for a name that is none, and might lead a path elsewhere. */
export function checkName(name: string): void {
  if (!NAME.test(name)) throw new GantryError('USAGE', `${JSON.stringify(name)} is no name of a container or sandbox`);
}

/**
 * What a checkpoint's own configuration asks of the node beyond a container of its own. Whoever restores it has to want
 * that: the checkpoint may be a stranger's. Errors: NOT_ALLOWED, with all of it.
 *
 * @param sandbox of the sandbox that is to be made; undefined when there is one
 */
export function refuseDemands(config: ContainerConfig, sandbox: PodSandboxConfig | undefined): void {
  const demands = [...demandsOf(config), ...(sandbox === undefined ? [] : sandboxDemands(sandbox))];
  if (demands.length === 0) return;
  throw new GantryError('NOT_ALLOWED', `the checkpoint's configuration asks for ${demands.join(', ')}`, {
    hint: 'when it is known where the checkpoint comes from: --trust-config',
  });
}

function demandsOf(config: ContainerConfig): string[] {
  const security = config.linux?.securityContext;
  return [
    ...volumesOf(config)
      .filter(({ name }) => name === '')
      .map(({ hostPath, path }) => `the node's ${hostPath} at ${path}`),
    ...config.devices.map(({ hostPath }) => `the device ${hostPath}`),
    ...config.CDIDevices.map(({ name }) => `the device ${name}`),
    ...(security?.privileged === true ? ['all privileges'] : []),
    ...(security?.capabilities?.addCapabilities ?? []).map((name) => `the capability ${name}`),
    ...namespacesOf(security?.namespaceOptions),
    ...tellingOf(config.annotations),
  ];
}

function sandboxDemands({ linux, annotations }: PodSandboxConfig): string[] {
  return [
    ...(linux?.securityContext?.privileged === true ? ['a privileged sandbox'] : []),
    ...namespacesOf(linux?.securityContext?.namespaceOptions),
    ...Object.keys(linux?.sysctls ?? {}).map((name) => `the sysctl ${name}`),
    ...tellingOf(annotations),
  ];
}

function namespacesOf(
  options: { readonly network: number; readonly pid: number; readonly ipc: number } | undefined,
): string[] {
  if (options === undefined) return [];
  return Object.entries({ network: options.network, PID: options.pid, IPC: options.ipc })
    .filter(([, mode]) => mode === NamespaceMode.NODE || mode === NamespaceMode.TARGET)
    .map(([name]) => `another ${name} namespace than its own`);
}

function tellingOf(annotations: Readonly<Record<string, string>>): string[] {
  return Object.keys(annotations)
    .filter((name) => TELLING.test(name))
    .map((name) => `the annotation ${name}`);
}
