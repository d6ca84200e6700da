/**
 * `step`: happens by itself, sooner or later. `poll`: the same, and only asks again. `user`: may happen, or not.
 * `fault`: may happen, a bounded number of times in one run.
 */
export type Kind = 'step' | 'poll' | 'user' | 'fault';

export interface Step<State> {
  readonly label: string;
  readonly kind: Kind;
  readonly next: State;
}

/** A system as all that it can do. States are plain values; those with the same key are the same. */
export interface Model<State> {
  readonly initial: State;
  key(state: State): string;
  steps(state: State): Step<State>[];
}

/** What must hold of every state, or of every step. Says what is wrong, or nothing. */
export interface Rule<State> {
  readonly name: string;
  state?(state: State): string | undefined;
  step?(from: State, to: State): string | undefined;
}

export interface Violation {
  readonly rule: string;
  /** What is wrong, after which run, and the state at its end. */
  readonly trace: string;
}

export interface Limits {
  /** Most faults in one run. */
  readonly faults: number;
  /** Ends the search at the first violation of this rule. */
  readonly until?: string;
}

interface Node<State> {
  readonly state: State;
  /** Of the run that leads here: the fewest faults, and of those the fewest steps. */
  faults: number;
  depth: number;
  parent: number;
  label: string;
  isExpanded: boolean;
}

/**
 * Every state that a model can reach, and how. Breadth first, in the order of faults and then of steps, so that the first
 * run that leads to a violation is the least. The number of faults so far is no part of a state: whoever has had
 * fewer can do all that one who has had more can.
 */
export class Space<State> {
  readonly #model: Model<State>;
  readonly #nodes: Node<State>[] = [];
  readonly #index = new Map<string, number>();
  /** Steps and polls, as triples: from, to, 1 for a poll. */
  readonly #edges: number[] = [];
  readonly #violations = new Map<string, Violation>();

  private constructor(model: Model<State>) {
    this.#model = model;
  }

  static explore<State>(model: Model<State>, rules: readonly Rule<State>[], limits: Limits): Space<State> {
    const space = new Space(model);
    space.#explore(rules, limits);
    return space;
  }

  get states(): number {
    return this.#nodes.length;
  }

  /** Most steps that a least run has. */
  get depth(): number {
    return this.#nodes.reduce((most, { depth }) => Math.max(most, depth), 0);
  }

  /** Most faults that a least run has: no state needs more, so with this many the search is complete for any number. */
  get faults(): number {
    return this.#nodes.reduce((most, { faults }) => Math.max(most, faults), 0);
  }

  has(isWanted: (state: State) => boolean): boolean {
    return this.#nodes.some(({ state }) => isWanted(state));
  }

  /** The least run that breaks a rule. */
  violation(rule: string): Violation | undefined {
    return this.#violations.get(rule);
  }

  /** A state from which no run without further faults or wishes of users leads to a good one. */
  stuck(rule: string, isGood: (state: State) => boolean): Violation | undefined {
    const backwards = this.#adjacent(1, 0);
    const reaches = new Uint8Array(this.#nodes.length);
    const queue: number[] = [];
    const visit = (node: number) => {
      if (reaches[node] === 1) return;
      reaches[node] = 1;
      queue.push(node);
    };
    for (const [at, { state }] of this.#nodes.entries()) if (isGood(state)) visit(at);
    for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
      for (const before of backwards(node)) visit(before);
    }
    const bad = this.#least((at) => reaches[at] === 0);
    return bad === undefined ? undefined : this.#tell(rule, 'no good end can be reached any more', bad);
  }

  /** A step, not just a question asked again, that lies on a cycle of runs without faults: it could go on for ever. */
  endless(rule: string): Violation | undefined {
    const component = this.#components();
    const edges = this.#edges;
    const onCycle = new Set<number>();
    for (let at = 0; at < edges.length; at += 3) {
      const from = edges[at] as number;
      if (edges[at + 2] === 0 && component[from] === component[edges[at + 1] as number]) onCycle.add(from);
    }
    const bad = this.#least((at) => onCycle.has(at));
    return bad === undefined ? undefined : this.#tell(rule, 'this can be repeated for ever', bad);
  }

  #explore(rules: readonly Rule<State>[], { faults: most, until }: Limits): void {
    const layers: number[][][] = Array.from({ length: most + 1 }, () => []);
    const reach = (state: State, faults: number, depth: number, parent: number, label: string): number => {
      const key = this.#model.key(state);
      let at = this.#index.get(key);
      const known = at === undefined ? undefined : this.#nodes[at];
      if (at === undefined) {
        at = this.#nodes.length;
        this.#index.set(key, at);
        this.#nodes.push({ state, faults, depth, parent, label, isExpanded: false });
      } else if (known !== undefined && (faults < known.faults || (faults === known.faults && depth < known.depth))) {
        Object.assign(known, { faults, depth, parent, label });
      } else {
        return at;
      }
      const buckets = layers[faults] as number[][];
      buckets[depth] ??= [];
      (buckets[depth] as number[]).push(at);
      return at;
    };
    reach(this.#model.initial, 0, 0, -1, '');
    for (const buckets of layers) {
      // Grows while it is walked.
      for (let depth = 0; depth < buckets.length; depth++) {
        for (const at of buckets[depth] ?? []) {
          const node = this.#nodes[at] as Node<State>;
          if (node.isExpanded) continue;
          node.isExpanded = true;
          for (const { name, state } of rules) this.#note(name, state?.(node.state), at);
          for (const { label, kind, next } of this.#model.steps(node.state)) {
            const faults = node.faults + (kind === 'fault' ? 1 : 0);
            if (faults > most) continue;
            for (const { name, step } of rules) this.#note(name, step?.(node.state, next), at, label);
            const to = reach(next, faults, depth + 1, at, label);
            if (kind === 'step' || kind === 'poll') this.#edges.push(at, to, kind === 'poll' ? 1 : 0);
          }
          if (until !== undefined && this.#violations.has(until)) return;
        }
      }
    }
  }

  #note(rule: string, what: string | undefined, at: number, then?: string): void {
    if (what === undefined || this.#violations.has(rule)) return;
    this.#violations.set(rule, this.#tell(rule, what, at, then));
  }

  #tell(rule: string, what: string, at: number, then?: string): Violation {
    const labels = then === undefined ? [] : [then];
    for (let node = this.#nodes[at] as Node<State>; node.parent >= 0; node = this.#nodes[node.parent] as Node<State>) {
      labels.unshift(node.label);
    }
    const { state } = this.#nodes[at] as Node<State>;
    const lines = labels.map((label, index) => `${String(index + 1).padStart(4)}  ${label}`);
    return { rule, trace: [`${rule}: ${what}, after`, ...lines, `   =  ${JSON.stringify(state)}`].join('\n') };
  }

  #least(isWanted: (at: number) => boolean): number | undefined {
    let least: number | undefined;
    for (const [at, { faults, depth }] of this.#nodes.entries()) {
      const best = least === undefined ? undefined : this.#nodes[least];
      const isBetter = !best || faults < best.faults || (faults === best.faults && depth < best.depth);
      if (isBetter && isWanted(at)) least = at;
    }
    return least;
  }

  /** The neighbours of each node over steps and polls; `from` and `to` are places in the triples. */
  #adjacent(from: 0 | 1, to: 0 | 1): (node: number) => Int32Array {
    const edges = this.#edges;
    const starts = new Int32Array(this.#nodes.length + 1);
    for (let at = 0; at < edges.length; at += 3) (starts[(edges[at + from] as number) + 1] as number)++;
    for (let node = 0; node < this.#nodes.length; node++) (starts[node + 1] as number) += starts[node] as number;
    const next = starts.slice();
    const neighbours = new Int32Array(edges.length / 3);
    for (let at = 0; at < edges.length; at += 3) {
      const node = edges[at + from] as number;
      neighbours[next[node] as number] = edges[at + to] as number;
      (next[node] as number)++;
    }
    return (node) => neighbours.subarray(starts[node], starts[node + 1]);
  }

  /** Strongly connected components over steps and polls (Tarjan, without recursion): a number for each node. */
  #components(): Int32Array {
    const neighbours = this.#adjacent(0, 1);
    const size = this.#nodes.length;
    const order = new Int32Array(size).fill(-1);
    const low = new Int32Array(size);
    const component = new Int32Array(size).fill(-1);
    const open: number[] = [];
    let counter = 0;
    for (let root = 0; root < size; root++) {
      if (order[root] !== -1) continue;
      const path: { node: number; rest: Int32Array; at: number }[] = [];
      const enter = (node: number) => {
        order[node] = low[node] = counter++;
        open.push(node);
        path.push({ node, rest: neighbours(node), at: 0 });
      };
      enter(root);
      for (let frame = path.at(-1); frame !== undefined; frame = path.at(-1)) {
        const { node, rest } = frame;
        if (frame.at < rest.length) {
          const to = rest[frame.at++] as number;
          if (order[to] === -1) enter(to);
          else if (component[to] === -1) low[node] = Math.min(low[node] as number, order[to] as number);
          continue;
        }
        path.pop();
        const parent = path.at(-1)?.node;
        if (parent !== undefined) low[parent] = Math.min(low[parent] as number, low[node] as number);
        if (low[node] !== order[node]) continue;
        for (let member = open.pop(); member !== undefined; member = open.pop()) {
          component[member] = node;
          if (member === node) break;
        }
      }
    }
    return component;
  }
}
