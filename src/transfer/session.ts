import type { TLSSocket } from 'node:tls';
import { GantryError } from '../errors.ts';
import { SourceMessage, TargetMessage } from '../gen/gantry/v1/peer.ts';

const HEARTBEAT_MS = 1000;
/** A peer that is silent for this long is lost, whatever TCP still believes. */
const SILENCE_LIMIT_MS = 6000;
const MESSAGE_LIMIT = 16 * 1024 * 1024;

interface Codec<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/**
 * One side of a migration's conversation: sends its messages, receives the other's, length-prefixed (u32, big-endian).
 * Heartbeats both ways; silence or the end of the connection is PEER_LOST for whoever waits.
 */
export class Session<In, Out> {
  readonly socket: TLSSocket;
  readonly #in: Codec<In>;
  readonly #out: Codec<Out>;
  readonly #arrived: In[] = [];
  readonly #timers: NodeJS.Timeout[] = [];
  #wake: (() => void) | undefined;
  #lost: GantryError | undefined;
  #lastHeard = performance.now();

  constructor(
    socket: TLSSocket,
    incoming: Codec<In>,
    outgoing: Codec<Out>,
    heartbeat: Out,
    isHeartbeat: (m: In) => boolean,
  ) {
    this.socket = socket;
    this.#in = incoming;
    this.#out = outgoing;
    let rest: Buffer = Buffer.alloc(0);
    socket.on('data', (chunk: Buffer) => {
      this.#lastHeard = performance.now();
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      while (rest.length >= 4) {
        const length = rest.readUInt32BE(0);
        if (length > MESSAGE_LIMIT) return void socket.destroy();
        if (rest.length < 4 + length) break;
        try {
          const message = this.#in.decode(rest.subarray(4, 4 + length));
          if (!isHeartbeat(message)) this.#arrived.push(message);
        } catch {
          return void socket.destroy();
        }
        rest = rest.subarray(4 + length);
      }
      this.#wake?.();
    });
    socket.on('close', () => this.#lose('the peer closed the connection'));
    this.#timers.push(
      setInterval(() => this.send(heartbeat), HEARTBEAT_MS),
      setInterval(() => {
        if (performance.now() - this.#lastHeard > SILENCE_LIMIT_MS) {
          this.#lose(`the peer was silent for ${SILENCE_LIMIT_MS / 1000} s`);
          socket.destroy();
        }
      }, HEARTBEAT_MS),
    );
  }

  send(message: Out): void {
    if (!this.socket.writable) return;
    const bytes = this.#out.encode(message).finish();
    const frame = Buffer.allocUnsafe(4 + bytes.length);
    frame.writeUInt32BE(bytes.length, 0);
    frame.set(bytes, 4);
    this.socket.write(frame);
  }

  /** The next message that is not a heartbeat. Errors: PEER_LOST, CANCELLED. */
  async receive(signal?: AbortSignal): Promise<In> {
    for (;;) {
      const message = this.#arrived.shift();
      if (message !== undefined) return message;
      if (signal?.aborted) throw new GantryError('CANCELLED', 'cancelled');
      if (this.#lost !== undefined) throw this.#lost;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        signal?.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }

  /** Resolves when the connection has ended, for whatever reason. */
  get closed(): Promise<void> {
    return this.socket.destroyed
      ? Promise.resolve()
      : new Promise((resolve) => this.socket.once('close', () => resolve()));
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.socket.end();
    // A peer that never answers the close must not keep the connection.
    setTimeout(() => this.socket.destroy(), HEARTBEAT_MS).unref();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #lose(why: string): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.#lost ??= new GantryError('PEER_LOST', why);
    this.#wake?.();
  }
}

/** The source's side of a conversation: sends SourceMessages. */
export function sourceSession(socket: TLSSocket): Session<TargetMessage, SourceMessage> {
  const heartbeat = SourceMessage.fromPartial({ heartbeat: {} });
  return new Session(socket, TargetMessage, SourceMessage, heartbeat, (m) => m.heartbeat !== undefined);
}

/** The target's side of a conversation: sends TargetMessages. */
export function targetSession(socket: TLSSocket): Session<SourceMessage, TargetMessage> {
  const heartbeat = TargetMessage.fromPartial({ heartbeat: {} });
  return new Session(socket, SourceMessage, TargetMessage, heartbeat, (m) => m.heartbeat !== undefined);
}
