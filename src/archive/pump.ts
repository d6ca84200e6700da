import { closeSync, constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { errnoOf, messageOf } from '../errors.ts';

/** What the thread is told. */
export interface PumpData {
  /** FIFOs, in the order in which they will be written into. */
  readonly paths: readonly string[];
  /** Of the file that their content goes to. */
  readonly fd: number;
  /** Where it goes, in bytes from the beginning of the file. */
  readonly at: number;
  /** [0]: 1 once nobody will write into a FIFO any more; [1]: index of the FIFO at hand. */
  readonly state: Int32Array<SharedArrayBuffer>;
}

/** Content that lies in the file after a place for its header. */
export interface PumpedFile {
  readonly name: string;
  readonly size: number;
  readonly sha256: string;
  /** Of the header, in bytes from the beginning of the file. */
  readonly at: number;
  readonly headerLength: number;
}

export interface PumpResult {
  readonly files: readonly PumpedFile[];
  /** After all of them. */
  readonly at: number;
  /** An error itself would lose its code on its way out of the thread. */
  readonly error?: { readonly code: string; readonly message: string };
}

const POKE_MS = 5;
const MOST_POKES = 2000;

/** Copies what is written into FIFOs into a file, in a thread of its own. Who writes never waits for a disk that is full. */
export class Pump {
  readonly #paths: readonly string[];
  readonly #state = new Int32Array(new SharedArrayBuffer(8));
  readonly #result: Promise<PumpResult>;
  #isOver = false;

  constructor(paths: readonly string[], fd: number, at: number) {
    this.#paths = paths;
    const workerData: PumpData = { paths, fd, at, state: this.#state };
    const script = import.meta.url.endsWith('.ts') ? './pump-worker.ts' : './pump-worker.mjs';
    const worker = new Worker(new URL(script, import.meta.url), { workerData });
    const { promise, resolve, reject } = Promise.withResolvers<PumpResult>();
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', () => {
      this.#isOver = true;
      reject(new Error('the thread that reads the images ended without a word'));
    });
    this.#result = promise;
    promise.catch(() => undefined);
  }

  /** What came, once nobody writes any more. Errors: those of writing the file; also then all has been read. */
  async end(): Promise<PumpResult> {
    Atomics.store(this.#state, 0, 1);
    // It waits for somebody to open the next FIFO: that is us, who write nothing.
    for (let count = 0; !this.#isOver && count < MOST_POKES; count++) {
      const path = this.#paths[Atomics.load(this.#state, 1)];
      if (path !== undefined) poke(path);
      await Promise.race([sleep(POKE_MS), this.#result.catch(() => undefined)]);
    }
    const result = await this.#result;
    if (result.error !== undefined) throw Object.assign(new Error(result.error.message), { code: result.error.code });
    return result;
  }
}

/** Opens a FIFO for writing and closes it, if anybody reads it. */
export function poke(path: string): void {
  try {
    closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch (error) {
    if (errnoOf(error) !== 'ENXIO' && errnoOf(error) !== 'ENOENT') throw new Error(messageOf(error), { cause: error });
  }
}

/** Reads FIFOs whose reader has died until nobody writes into them any more. Disposing it ends that. */
export function drain(paths: readonly string[]): Disposable {
  const sockets = paths.map((path) => {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const socket = new Socket({ fd, readable: true, writable: false });
    socket.on('error', () => undefined);
    return socket.resume();
  });
  return {
    [Symbol.dispose]() {
      for (const socket of sockets) socket.destroy();
    },
  };
}
