import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { GantryError } from '../errors.ts';
import { Event, Phase, Result } from '../gen/gantry/v1/agent.ts';

/** Bytes on their way are told of so often. */
const TRANSFERRED_EVERY_MS = 250;

/**
 * One running checkpoint, restore or migration: its phases as events, its cancellation, its end. It belongs to the
 * agent, not to the caller that began it.
 */
export class Operation {
  readonly id: string;
  readonly subject: string;
  /** Those that have ended. */
  readonly phases: Phase[] = [];
  /** Names of those under way. */
  readonly running = new Set<string>();
  bytesSent = 0;
  readonly #events = new EventEmitter<{ event: [Event] }>();
  readonly #abort = new AbortController();
  readonly #startedAt = performance.now();
  readonly #moved = new Map<string, number>();
  /** Seconds that phases, and what is given to {@link limit}, may take before the commit. */
  readonly limits = new Map<string, number>();
  #toldAt = 0;
  #committed = false;

  constructor(subject: string, id = randomBytes(8).toString('hex')) {
    this.subject = subject;
    this.id = id;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Asks for a rollback. False when it is too late for one. */
  cancel(): boolean {
    if (this.#committed) return false;
    this.#abort.abort(new GantryError('CANCELLED', 'cancelled'));
    return true;
  }

  /** What is to be over within its limit, if it has one; else it is cancelled, with TIMEOUT. Until disposed, or the commit. */
  limit(name: string): Disposable {
    const seconds = this.limits.get(name);
    const timer = seconds === undefined ? undefined : setTimeout(() => this.#timeOut(name, seconds), seconds * 1000);
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  }

  #timeOut(name: string, seconds: number): void {
    if (this.#committed) return;
    const message = `"${name}" took longer than its limit of ${seconds} s`;
    const hint = `--timeout "${name}=SECONDS" gives it more; gantry check tells what a move would take`;
    this.#abort.abort(new GantryError('TIMEOUT', message, { hint }));
  }

  /** From here on the operation is carried through. Errors: CANCELLED, when somebody was faster. */
  commit(): void {
    this.throwIfCancelled();
    this.#committed = true;
  }

  throwIfCancelled(): void {
    this.signal.throwIfAborted();
  }

  onEvent(listener: (event: Event) => void): () => void {
    this.#events.on('event', listener);
    return () => this.#events.off('event', listener);
  }

  /** Runs one step and tells when it began and how long it took. */
  async phase<T>(name: string, step: () => Promise<T>): Promise<T> {
    this.#events.emit('event', Event.fromPartial({ phaseStarted: { name } }));
    const began = this.elapsedMs();
    using _limit = this.limit(name);
    this.running.add(name);
    const result = await step().finally(() => this.running.delete(name));
    const phase = Phase.fromPartial({ name, startMs: began, durationMs: this.elapsedMs() - began });
    this.phases.push(phase);
    this.#events.emit('event', Event.fromPartial({ phase }));
    return result;
  }

  /**
   * Some more bytes have been moved by a phase.
   *
   * @param total what the phase has to move, where that is known
   */
  moved(phase: string, bytes: number, total = 0): void {
    this.bytesSent += bytes;
    const phaseBytes = (this.#moved.get(phase) ?? 0) + bytes;
    this.#moved.set(phase, phaseBytes);
    const now = this.elapsedMs();
    if (now - this.#toldAt < TRANSFERRED_EVERY_MS) return;
    this.#toldAt = now;
    const figures = { bytesSent: BigInt(this.bytesSent), phaseBytes: BigInt(phaseBytes), phaseTotal: BigInt(total) };
    this.#events.emit('event', Event.fromPartial({ transferred: { phase, ...figures } }));
  }

  /** The events that somebody who comes later has missed and may want. */
  soFar(): Event[] {
    return [
      ...this.phases.map((phase) => Event.fromPartial({ phase })),
      ...[...this.running].map((name) => Event.fromPartial({ phaseStarted: { name } })),
    ];
  }

  /** A step that has to succeed has failed, and is tried again. */
  retrying(what: string, why: string): void {
    this.#events.emit('event', Event.fromPartial({ retrying: { what, why } }));
  }

  elapsedMs(): number {
    return performance.now() - this.#startedAt;
  }

  result(fields: Partial<Result>): Result {
    return Result.fromPartial({ ...fields, phases: this.phases, bytesSent: BigInt(this.bytesSent) });
  }
}
