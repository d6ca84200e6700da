import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { GantryError } from '../errors.ts';
import { Event, Phase, Result } from '../gen/gantry/v1/agent.ts';

/**
 * One running checkpoint, restore or migration: its phases as events, its cancellation, its end. It belongs to the
 * agent, not to the caller that began it.
 */
export class Operation {
  readonly id = randomBytes(8).toString('hex');
  readonly subject: string;
  readonly phases: Phase[] = [];
  bytesSent = 0;
  readonly #events = new EventEmitter<{ event: [Event] }>();
  readonly #abort = new AbortController();
  readonly #startedAt = performance.now();
  #committed = false;

  constructor(subject: string) {
    this.subject = subject;
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
    const result = await step();
    const phase = Phase.fromPartial({ name, startMs: began, durationMs: this.elapsedMs() - began });
    this.phases.push(phase);
    this.#events.emit('event', Event.fromPartial({ phase }));
    return result;
  }

  sent(bytes: number): void {
    this.bytesSent += bytes;
    this.#events.emit('event', Event.fromPartial({ transferred: { bytesSent: BigInt(this.bytesSent) } }));
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
