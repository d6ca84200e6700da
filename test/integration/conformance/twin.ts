import { randomUUID } from 'node:crypto';

export type Side = 'direct' | 'relayed';

/**
 * One of two sets of the same objects in one runtime: those of `direct` are made and changed on the runtime's own
 * socket, those of `relayed` through the relay. They differ only in what is random or may exist but once (IDs, the
 * pod's UID, addresses, the image). A twin knows what is its own, under names that both have in common.
 */
export class Twin {
  readonly side: Side;
  readonly #own = new Map<string, string>();

  constructor(side: Side) {
    this.side = side;
    this.learn('uid', randomUUID());
    // Of the same length on either side, since lengths are compared.
    this.learn('image', `gantry.lab/${side === 'direct' ? 'first' : 'other'}:1`);
  }

  learn(name: string, value: string): void {
    // An answer that lacks it is no name of anything.
    if (value !== '') this.#own.set(name, value);
  }

  own(name: string): string {
    const value = this.#own.get(name);
    if (value === undefined) throw new Error(`the ${this.side} twin has no ${name}: the step that makes it has failed`);
    return value;
  }

  /** The text with placeholders instead of what is this twin's own. */
  anonymous(text: string): string {
    // The longest first: one address may be the beginning of another.
    const own = [...this.#own].toSorted(([, a], [, b]) => b.length - a.length);
    return own.reduce((result, [name, value]) => result.replaceAll(value, `<${name}>`), text);
  }
}
