import { GantryError } from '../errors.ts';
import { type ContainerConfig, NamespaceMode } from '../gen/cri.ts';

/** A container of a checkpoint, as it was configured. */
export interface Checkpointed {
  readonly name: string;
  readonly config: ContainerConfig;
}

/**
 * What the CRI says of the configurations of a restore: one for each container of the checkpoint, found by its name.
 * Errors: USAGE.
 *
 * @returns in the order of the checkpoint
 */
export function pairUp<T extends { readonly name: string }>(
  saved: readonly T[],
  configs: readonly ContainerConfig[],
): { readonly saved: T; readonly config: ContainerConfig }[] {
  const byName = new Map(configs.map((config) => [config.metadata?.name ?? '', config]));
  const names = (all: readonly string[]) => all.toSorted().join(', ');
  const given = configs.map(({ metadata }) => metadata?.name ?? '');
  const wanted = saved.map(({ name }) => name);
  if (byName.has('') || byName.size !== configs.length || names(given) !== names(wanted)) {
    throw new GantryError(
      'USAGE',
      `the checkpoint has the containers ${names(wanted)}, and the request configures ${names(given) || 'none'}`,
      { hint: 'each of the checkpoint has to be configured once, by its name, and no other' },
    );
  }
  return saved.map((one) => ({ saved: one, config: byName.get(one.name) as ContainerConfig }));
}

/**
 * What a configuration says of the process is what the checkpoint's process has to be: it cannot be changed by it. Whether
 * the image is the same is for others to say. Errors: NOT_FITTING, with all that differs.
 */
export function checkExpected({ name, config: saved }: Checkpointed, config: ContainerConfig): void {
  const paths = new Set(config.mounts.map(({ containerPath }) => containerPath));
  const missing = saved.mounts.map(({ containerPath }) => containerPath).filter((path) => !paths.has(path));
  const differences = [
    ...(same(saved.command, config.command) ? [] : ['another command']),
    ...(same(saved.args, config.args) ? [] : ['other arguments']),
    ...(saved.workingDir === config.workingDir ? [] : ['another working directory']),
    ...differentVariables(saved, config).map((key) => `another value of ${key}`),
    ...(same(credentialsOf(saved), credentialsOf(config)) ? [] : ['another user or group']),
    ...(config.tty ? ['a terminal'] : []),
    ...(config.linux?.securityContext?.namespaceOptions?.pid === NamespaceMode.CONTAINER
      ? []
      : ['no PID namespace of its own']),
    ...missing.map((path) => `nothing mounted at ${path}`),
  ];
  if (differences.length === 0) return;
  throw new GantryError(
    'NOT_FITTING',
    `container ${name} of the checkpoint is configured with ${differences.join(', ')}`,
    { hint: 'a process is restored as it was: configure it as it was' },
  );
}

function same(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((part, index) => part === other[index]);
}

/** Names only: values may be secrets. */
function differentVariables(saved: ContainerConfig, config: ContainerConfig): string[] {
  const [before, now] = [saved, config].map(
    ({ envs }) => new Map(envs.map(({ key, value }) => [key, Buffer.from(value).toString('base64')])),
  ) as [Map<string, string>, Map<string, string>];
  return [...new Set([...before.keys(), ...now.keys()])].filter((key) => before.get(key) !== now.get(key));
}

function credentialsOf({ linux }: ContainerConfig): string[] {
  const security = linux?.securityContext;
  if (security === undefined) return [];
  const { runAsUser, runAsUsername, runAsGroup, supplementalGroups } = security;
  const groups = supplementalGroups.map(String).toSorted();
  return [`${runAsUser?.value ?? ''}`, runAsUsername, `${runAsGroup?.value ?? ''}`, ...groups];
}
