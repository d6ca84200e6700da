import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import type { Role } from './child.ts';

const REPOSITORY = join(import.meta.dirname, '../../..');
const START_MS = 20_000;

/** What is compared, in the order of the tables. */
export const WAYS = ['direct', 'splice', 'pipe', 'relay', 'looking'] as const;
export type WayName = (typeof WAYS)[number];

/** A socket that leads to the runtime, and the process in between, if there is one. */
export interface Way {
  readonly name: WayName;
  readonly path: string;
  readonly pid: number | undefined;
}

/** Every way to one runtime, each in a process of its own; they end when this is disposed of. */
export class Ways implements AsyncDisposable {
  readonly #folder: string;
  readonly #children: ChildProcess[] = [];
  #bundle: string | undefined;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** @param tag distinguishes the sockets, when there are several of a kind */
  async start(name: WayName, upstream: string, tag: string = name): Promise<Way> {
    if (name === 'direct') return { name, path: upstream, pid: undefined };
    const path = join(this.#folder, `${tag}.sock`);
    const child = name === 'relay' ? spawnRelay(path, upstream) : await this.#fork(name, path, upstream);
    this.#children.push(child);
    if (name === 'relay') await appears(path);
    else await once(child, 'message');
    return { name, path, pid: child.pid };
  }

  async startAll(upstream: string): Promise<Way[]> {
    const ways: Way[] = [];
    for (const name of WAYS) ways.push(await this.start(name, upstream));
    return ways;
  }

  async #fork(role: Role, path: string, upstream: string): Promise<ChildProcess> {
    this.#bundle ??= await bundle(this.#folder);
    return fork(this.#bundle, [role, path, upstream]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      this.#children.map(async (child) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const exited = once(child, 'exit');
        child.kill();
        await exited;
      }),
    );
  }
}

/** The program as it is installed. */
export function spawnRelay(path: string, upstream: string, ...more: string[]): ChildProcess {
  const args = [
    'proxy',
    '--listen',
    path,
    '--upstream',
    upstream,
    '--metrics',
    `unix:${path}.metrics`,
    '--log-level',
    'warn',
    ...more,
  ];
  return spawn(join(REPOSITORY, 'bin/gantry'), args, { stdio: ['ignore', 'ignore', 'inherit'] });
}

/** As the program is: in one file, without the compiler that runs TypeScript, which takes 50 MiB of its own. */
async function bundle(folder: string): Promise<string> {
  const outfile = join(folder, 'child.mjs');
  await build({
    entryPoints: [fileURLToPath(new URL('child.ts', import.meta.url))],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
    logLevel: 'error',
  });
  return outfile;
}

export async function appears(path: string): Promise<void> {
  const end = performance.now() + START_MS;
  while (performance.now() < end) {
    if ((await stat(path).catch(() => undefined)) !== undefined) return;
    await delay(20);
  }
  throw new Error(`nothing listens on ${path} after ${START_MS} ms`);
}
