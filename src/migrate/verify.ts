import { setTimeout as sleep } from 'node:timers/promises';
import type { Node } from '../agent/node.ts';
import { GantryError, messageOf } from '../errors.ts';
import type { Probe } from '../gen/gantry/v1/probe.ts';
import { runInNetwork } from '../runtime/program.ts';

const MOST_PROBES = 8;
const MOST_LIMIT_MS = 60_000;
/** One that has just started and does not answer yet. */
const ASK_AGAIN_MS = 50;
const MOST_WORDS = 64;
const MOST_CHARACTERS = 4096;
/** For a program to start on a busy node, beside the probe's own limit. */
const START_MS = 5000;

/** Runs inside the pod's network: a process cannot enter one and leave it again with a thread of its own. */
const CONNECT = `
const [, host, port, limit] = process.argv;
const socket = require('node:net').connect({ host, port: Number(port) }, () => process.exit(0));
const fail = (why) => { process.stderr.write(why); process.exit(1); };
socket.on('error', ({ code, message }) => fail(code ?? message));
setTimeout(fail, Number(limit), 'it did not accept within ' + limit + ' ms');
`;
const GET = `
const [, host, port, limit, path] = process.argv;
const fail = (why) => { process.stderr.write(why); process.exit(1); };
require('node:http').get({ host, port: Number(port), path, agent: false }, ({ statusCode }) =>
  statusCode >= 200 && statusCode < 400 ? process.exit(0) : fail('it answered ' + statusCode),
).on('error', ({ code, message }) => fail(code ?? message));
setTimeout(fail, Number(limit), 'it did not answer within ' + limit + ' ms');
`;

/** What a probe is asked of. */
export interface Restored {
  /** Path of the pod's network namespace. */
  readonly netns: string;
  /** One of the pod's own: whoever connects to it from inside does so over loopback, which is not shut. */
  readonly address: string;
  /** ID of the first container. */
  readonly container: string;
}

/** Refuses what no caller of good will asks for; the peer is asked before anything is restored. Errors: USAGE. */
export function checkProbes(probes: readonly Probe[]): void {
  const refuse = (why: string): never => {
    throw new GantryError('USAGE', `a probe ${why}`);
  };
  if (probes.length > MOST_PROBES) throw new GantryError('USAGE', `${MOST_PROBES} probes at most`);
  for (const { tcpPort, http, exec, limitMs } of probes) {
    if (limitMs < 1 || limitMs > MOST_LIMIT_MS) refuse(`has from 1 to ${MOST_LIMIT_MS} ms, not ${limitMs}`);
    const port = tcpPort ?? http?.port;
    if (port !== undefined && (port < 1 || port > 65_535)) refuse(`cannot use port ${port}`);
    if (http !== undefined && (http.path.length > MOST_CHARACTERS || !/^\/[!-~]*$/.test(http.path)))
      refuse('asks for a path that begins with / and has neither spaces nor other than ASCII characters');
    if (exec !== undefined) {
      const { command } = exec;
      if (command.length < 1 || command.length > MOST_WORDS || command.join(' ').length > MOST_CHARACTERS)
        refuse(`runs a command of 1 to ${MOST_WORDS} words and ${MOST_CHARACTERS} characters at most`);
    }
    if (port === undefined && exec === undefined) refuse('asks for nothing');
  }
}

/**
 * Asks once each: what was restored is as far as it was, so that waiting for it would only make the interruption longer
 * before it ends at the source. What starts anew is asked again within the probe's limit. Errors: VERIFICATION_FAILED.
 */
export async function verifyProbes(
  node: Node,
  restored: Restored,
  probes: readonly Probe[],
  { isStarting = false } = {},
): Promise<void> {
  for (const probe of probes) {
    const end = performance.now() + probe.limitMs;
    for (;;) {
      const error = await ask(node, restored, probe).then(
        () => undefined,
        (reason: unknown) => ({ reason }),
      );
      if (error === undefined) break;
      if (!isStarting || performance.now() > end) {
        const what = `${nameOf(probe)} after the ${isStarting ? 'start' : 'restore'}`;
        throw new GantryError('VERIFICATION_FAILED', `${what}: ${messageOf(error.reason)}`, { cause: error.reason });
      }
      await sleep(ASK_AGAIN_MS);
    }
  }
}

async function ask(node: Node, restored: Restored, { tcpPort, http, exec, limitMs }: Probe): Promise<void> {
  if (exec !== undefined) {
    const { exitCode, stderr } = await node.cri.execSync(restored.container, exec.command, limitMs);
    if (exitCode !== 0) throw new Error(`exit code ${exitCode} ${String(stderr).trim().slice(0, 200)}`.trim());
    return;
  }
  const [script, port, ...rest] = http === undefined ? [CONNECT, tcpPort] : [GET, http.port, http.path];
  await runInNetwork(
    restored.netns,
    process.execPath,
    ['-e', script as string, '--', restored.address, String(port), String(limitMs), ...(rest as string[])],
    { timeoutMs: limitMs + START_MS, name: `${restored.address}:${port}` },
  );
}

function nameOf({ tcpPort, http, exec }: Probe): string {
  if (http !== undefined) return `HTTP to port ${http.port}, ${http.path},`;
  return exec === undefined ? `a connection to port ${tcpPort}` : `the command ${exec.command.join(' ').slice(0, 100)}`;
}
