import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import * as z from 'zod';
import { errnoOf, GantryError, messageOf } from '../errors.ts';
import { LOG_LEVELS } from '../log.ts';
import { type Problem, parseYamlConfig } from '../yaml-config.ts';
import { DEFAULT_DRAIN_TIMEOUT_MS, DEFAULT_UPSTREAM_WAIT_MS } from './defaults.ts';
import { metricsAddress } from './metrics-address.ts';

export const DEFAULT_CONFIG_FILE = '/etc/gantry/config.yaml';

const LONGEST_MS = 3_600_000;
const wrongTime = { error: `must be whole milliseconds from 0 to ${LONGEST_MS} (an hour)` };
const milliseconds = z.int(wrongTime).min(0, wrongTime).max(LONGEST_MS, wrongTime);
const path = z.string('must be a path').min(1, 'must be a path');
const oneOf = <const Words extends readonly [string, ...string[]]>(words: Words) =>
  z.enum(words, { error: `must be one of ${words.join(', ')}` });

const settings = z.strictObject({
  /** The unix socket to serve the CRI on; one that systemd passes is used instead. */
  listen: path,
  /** The runtime's unix socket. */
  upstream: path,
  /** How long a call waits for a runtime that is not there. */
  upstreamWaitMs: milliseconds,
  /** How long calls in flight may go on after SIGTERM. */
  drainTimeoutMs: milliseconds,
  /** Where Prometheus may read; nowhere when empty. */
  metrics: z
    .string('must be HOST:PORT or unix:PATH')
    .refine(
      (text) => text === '' || metricsAddress(text) !== undefined,
      'must be HOST:PORT with a loopback address (127.0.0.1, [::1], localhost), or unix:PATH',
    ),
  logLevel: oneOf(LOG_LEVELS),
  /** Which version of the CRI the runtime speaks. */
  runtimeApi: oneOf(['auto', 'v1', 'v1alpha2']),
  /** Where the slots of the node are kept. */
  stateDir: path,
  /** Whose the checkpoints are that are made and restored through the CRI. */
  checkpoints: oneOf(['auto', 'runtime', 'gantry']),
  /** The agent's socket, for these. */
  agentSocket: path,
});

export type ProxyConfig = z.infer<typeof settings>;
export type Setting = keyof ProxyConfig;

export const DEFAULTS: Readonly<ProxyConfig> = {
  listen: '/run/gantry/cri.sock',
  upstream: '/run/containerd/containerd.sock',
  upstreamWaitMs: DEFAULT_UPSTREAM_WAIT_MS,
  drainTimeoutMs: DEFAULT_DRAIN_TIMEOUT_MS,
  metrics: '',
  logLevel: 'info',
  runtimeApi: 'auto',
  stateDir: '/var/lib/gantry',
  checkpoints: 'auto',
  agentSocket: '/run/gantry/agent.sock',
};

/** The flag of each setting. */
export const FLAGS = {
  listen: '--listen',
  upstream: '--upstream',
  upstreamWaitMs: '--upstream-wait',
  drainTimeoutMs: '--drain-timeout',
  metrics: '--metrics',
  logLevel: '--log-level',
  runtimeApi: '--runtime-api',
  stateDir: '--state-dir',
  checkpoints: '--checkpoints',
  agentSocket: '--agent',
} as const satisfies Record<Setting, string>;

/** Flags as they were given, none of them checked. */
export type Flags = Partial<Record<Setting, string>>;

export interface EffectiveConfig {
  values: ProxyConfig;
  /** Where each value comes from: "default", "FILE:LINE" or a flag. */
  origins: Record<Setting, string>;
}

// The proxy has a section, so that other parts of Gantry can have theirs in the same file.
const file = z.strictObject(
  { proxy: settings.partial().nullish() },
  { error: (issue) => (issue.code === 'invalid_type' ? 'must be a map with the key "proxy"' : undefined) },
);

/**
 * Reads the file and applies the flags over it.
 *
 * @param path the file asked for; the one at its usual place when undefined, and that need not exist
 * Errors: USAGE, whose message has one line for each mistake in file and flags.
 */
export async function readProxyConfig(path: string | undefined, flags: Flags): Promise<EffectiveConfig> {
  const name = path ?? DEFAULT_CONFIG_FILE;
  let text = '';
  try {
    text = await readFile(name, 'utf8');
  } catch (error) {
    if (path !== undefined || errnoOf(error) !== 'ENOENT') {
      throw new GantryError('USAGE', `cannot read the configuration: ${messageOf(error)}`, { cause: error });
    }
  }
  return effectiveConfig(text, name, flags);
}

/** Pure part of {@link readProxyConfig}. */
export function effectiveConfig(text: string, name: string, flags: Flags): EffectiveConfig {
  const fromFile = parseYamlConfig(text, name, file);
  const fromFlags = parseFlags(flags);
  const inFile = present(fromFile.value?.proxy ?? {});
  const values = { ...DEFAULTS, ...inFile, ...fromFlags.values };
  const problems = [...fromFile.problems, ...fromFlags.problems];
  if (problems.length === 0 && resolve(values.listen) === resolve(values.upstream)) {
    problems.push({ where: 'listen', message: `is the runtime's own socket ${values.upstream}` });
  }
  if (problems.length > 0) {
    throw new GantryError('USAGE', problems.map(({ where, message }) => `${where} ${message}`).join('\n'), {
      hint: 'docs/relay.md lists the settings; gantry proxy --check tries them',
    });
  }
  const origin = (setting: Setting): string => {
    if (setting in fromFlags.values) return FLAGS[setting];
    return setting in inFile ? `${name}:${fromFile.lineOf(['proxy', setting])}` : 'default';
  };
  const names = Object.keys(DEFAULTS) as Setting[];
  const origins = Object.fromEntries(names.map((name) => [name, origin(name)])) as Record<Setting, string>;
  return { values, origins };
}

function parseFlags(flags: Flags): { values: Partial<ProxyConfig>; problems: Problem[] } {
  const given = Object.entries(present(flags)).map(([setting, text]) => {
    const isNumber = setting.endsWith('Ms') && /^\d+$/.test(text);
    return [setting, isNumber ? Number(text) : text];
  });
  const checked = settings.partial().safeParse(Object.fromEntries(given));
  if (checked.success) return { values: present(checked.data), problems: [] };
  const problems = checked.error.issues.map(({ path, message }) => ({ where: FLAGS[path[0] as Setting], message }));
  return { values: {}, problems };
}

/** Without the keys whose value is undefined. */
function present<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> };
}
