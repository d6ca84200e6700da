import { readFile } from 'node:fs/promises';
import { GantryError } from '../errors.ts';
import { type IdentityConfig, parseIdentity } from '../network/identity/config.ts';
import { metricsAddress } from '../proxy/metrics-address.ts';

/** Configuration of one node's agent: a JSON file (docs/operations.md). Addresses are HOST:PORT. */
export interface AgentConfig {
  /** This node's name: the one in its certificate and in the peers' configuration. */
  node: string;
  /** containerd's own socket: the agent deals with real IDs and must work while the relay restarts. */
  runtimeSocket: string;
  /** The relay's socket: it keeps the slots (docs/surgery.md). */
  proxySocket: string;
  agentSocket: string;
  peerListen: string;
  /** Name of each peer to its address. */
  peers: Record<string, string>;
  tls: { ca: string; cert: string; key: string };
  /** Survives a reboot: journal of migrations. */
  stateDir: string;
  /** Holds whole processes' memory while they move; mode 0700, emptied after use. */
  imageDir: string;
  /** Tickets for the OCI hook; the hook looks below /run/gantry. */
  runDir: string;
  /** host-local's folder of reservations for the pods' network, "" when another IPAM is used. */
  ipamDir: string;
  retention: Retention;
  /** Migrations at a time, in each direction; more have to wait. */
  maxMigrationsOut: number;
  maxMigrationsIn: number;
  /** Records of so many migrations are kept. */
  migrationsKept: number;
  /** Where Prometheus asks: HOST:PORT with a loopback address, or unix:PATH; "" nowhere (docs/metrics.md). */
  metrics: string;
  /** Of an OpenTelemetry collector, http://HOST:PORT or https://; "" none (docs/metrics.md). */
  otlpEndpoint: string;
  /** How a moved pod's addresses are reached (docs/identity.md). */
  identity: IdentityConfig;
}

/** What is kept of pods that have moved away. */
export interface Retention {
  /** For how long their last state; 0: not at all. */
  hours: number;
  /** The oldest go before that, when all of them are larger; 0: no limit. */
  maxGiB: number;
  /** age recipients for which it is encrypted; none: not encrypted. */
  recipients: string[];
  /** How often a peer is asked whether a pod is gone whose address is kept. */
  lookSeconds: number;
}

const RETENTION: Retention = { hours: 24, maxGiB: 0, recipients: [], lookSeconds: 10 };

const DEFAULTS: Partial<AgentConfig> = {
  runtimeSocket: '/run/containerd/containerd.sock',
  proxySocket: '/run/gantry/cri.sock',
  agentSocket: '/run/gantry/agent.sock',
  peers: {},
  stateDir: '/var/lib/gantry',
  imageDir: '/run/gantry/images',
  runDir: '/run/gantry',
  ipamDir: '',
  metrics: '',
  otlpEndpoint: '',
  maxMigrationsOut: 2,
  maxMigrationsIn: 2,
  migrationsKept: 1000,
};

const TEXTS = [
  'node',
  'runtimeSocket',
  'proxySocket',
  'agentSocket',
  'peerListen',
  'stateDir',
  'imageDir',
  'runDir',
  'ipamDir',
  'metrics',
  'otlpEndpoint',
] as const;

const COUNTS = ['maxMigrationsOut', 'maxMigrationsIn', 'migrationsKept'] as const;

/** Reads and checks the configuration. Errors: USAGE, naming the field. */
export async function readConfig(file: string): Promise<AgentConfig> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    throw new GantryError('USAGE', `cannot read the configuration ${file}`, {
      cause: error,
      hint: 'see docs/operations.md',
    });
  }
  return parseConfig(text, file);
}

/** Pure part of {@link readConfig}. */
export function parseConfig(text: string, file: string): AgentConfig {
  const wrong = (what: string, cause?: unknown) =>
    new GantryError('USAGE', `${file}: ${what}`, { cause, hint: 'see docs/operations.md' });
  let given: Record<string, unknown>;
  try {
    given = { ...DEFAULTS, ...(JSON.parse(text) as Record<string, unknown>) };
  } catch (error) {
    throw wrong('not valid JSON', error);
  }
  for (const field of TEXTS) if (typeof given[field] !== 'string') throw wrong(`"${field}" must be a text`);
  for (const field of COUNTS) {
    if (!Number.isInteger(given[field]) || (given[field] as number) < 1)
      throw wrong(`"${field}" must be a whole number from 1`);
  }
  const known = new Set<string>([...TEXTS, ...COUNTS, 'peers', 'tls', 'retention', 'identity']);
  for (const field of Object.keys(given)) if (!known.has(field)) throw wrong(`"${field}" is not known`);
  const config = given as unknown as AgentConfig;
  for (const [name, address] of [...Object.entries(config.peers), ['peerListen', config.peerListen] as const]) {
    if (typeof address !== 'string' || !/:\d+$/.test(address)) throw wrong(`the address of ${name} must be HOST:PORT`);
  }
  if (config.metrics !== '' && metricsAddress(config.metrics) === undefined)
    throw wrong('"metrics" must be HOST:PORT with a loopback address, or unix:PATH');
  if (config.otlpEndpoint !== '' && !/^https?:$/.test(URL.parse(config.otlpEndpoint)?.protocol ?? ''))
    throw wrong('"otlpEndpoint" must be http://HOST:PORT or https://HOST:PORT');
  config.retention = { ...RETENTION, ...config.retention };
  for (const [name, value] of Object.entries(config.retention)) {
    if (!(name in RETENTION)) throw wrong(`"retention.${name}" is not known`);
    const isRight = name === 'recipients' ? Array.isArray(value) : typeof value === 'number' && value >= 0;
    if (!isRight) throw wrong(`"retention.${name}" must be ${name === 'recipients' ? 'a list' : 'a number'}`);
  }
  for (const field of ['ca', 'cert', 'key'] as const) {
    if (typeof config.tls?.[field] !== 'string') throw wrong(`"tls.${field}" must be a path`);
  }
  return { ...config, identity: parseIdentity(given.identity, Object.keys(config.peers), wrong) };
}
