import type { SourceState, TargetState } from '../../src/migrate/protocol.ts';
import type { Kind, Step } from './search.ts';

/** Everything of one migration that matters, as plain values. Comments say who keeps it, and what ends it. */
export interface State {
  /** Of the source's agent: what it does next. In memory. */
  readonly sourceDoes: string;
  /** Durable, '' is no entry. */
  readonly sourceEntry: SourceState | '';
  /** Kernel: ends with a reboot. `held`: restored for a rollback, up to its gate; ends with its agent. */
  readonly sourceRuns: 'running' | 'frozen' | 'held' | 'none';
  readonly sourceNet: 'open' | 'shut' | 'none';
  /** Durable, in the CNI's files: held by the pod's sandbox, by the migration, or by nobody. */
  readonly address: 'pod' | 'reserved' | 'free';
  /** The dumped state, on disk. */
  readonly kept: boolean;

  readonly targetDoes: string;
  readonly targetEntry: TargetState | '';
  /** `held`: up to its gate. `released`: on its way from there to running, with or without its agent. */
  readonly targetRuns: 'running' | 'released' | 'held' | 'none';
  /** Of the placeholder, later of the pod; `none`: there is no sandbox. */
  readonly targetNet: 'open' | 'shut' | 'none';
  /** A restarted agent takes no calls before it has settled what it can alone. */
  readonly targetRecovers: boolean;
  /** What it does to end its copy for a rollback, beside everything else. */
  readonly targetReverts: '' | 'remove' | 'write' | 'refuse';

  readonly link: 'up' | 'down';
  /** Nothing is put into a conversation any more; what has arrived may still be read. Each side notices for itself. */
  readonly broken: boolean;
  readonly toTarget: readonly string[];
  readonly toSource: readonly string[];
  /** The source's question: '?' asked, '~' being worked on, '=' answered. */
  readonly query: string;
  /** A question that nobody waits for any more and that may still arrive. */
  readonly orphan: string;

  /** The pod on a third node, to which the target has moved it. */
  readonly onward: '' | 'lives' | 'over';

  // What has happened: only for the rules.
  readonly wasPoised: boolean;
  readonly wasReachable: boolean;
  readonly wasThawed: boolean;
  readonly wasEnded: boolean;
  /** Its owner has removed the pod: where it went, or where it came back to. */
  readonly wasRemoved: boolean;
  readonly hasLeftSource: boolean;
  readonly wasLost: boolean;
}

export type Draft = { -readonly [K in keyof State]: State[K] };

export const INITIAL: State = {
  sourceDoes: 'send offer',
  sourceEntry: '',
  sourceRuns: 'running',
  sourceNet: 'open',
  address: 'pod',
  kept: false,
  targetDoes: 'wait for offer',
  targetEntry: '',
  targetRuns: 'none',
  targetNet: 'none',
  targetRecovers: false,
  targetReverts: '',
  link: 'up',
  broken: false,
  toTarget: [],
  toSource: [],
  query: '',
  orphan: '',
  onward: '',
  wasPoised: false,
  wasReachable: false,
  wasThawed: false,
  wasEnded: false,
  wasRemoved: false,
  hasLeftSource: false,
  wasLost: false,
};

/** Collects the steps of a state. */
export class Possible {
  readonly steps: Step<State>[] = [];
  readonly #state: State;

  constructor(state: State) {
    this.#state = state;
  }

  add(kind: Kind, label: string, change: (draft: Draft) => void): void {
    const draft: Draft = { ...this.#state };
    change(draft);
    draft.wasReachable ||= targetIsReachable(draft);
    this.steps.push({ label, kind, next: draft });
  }

  step(label: string, change: (draft: Draft) => void): void {
    this.add('step', label, change);
  }
}

export function targetIsReachable({ targetRuns, targetNet }: State): boolean {
  return targetNet === 'open' && (targetRuns === 'running' || targetRuns === 'released');
}

export function sourceIsReachable({ sourceRuns, sourceNet }: State): boolean {
  return sourceNet === 'open' && sourceRuns === 'running';
}

export function living(state: State): number {
  return Number(sourceIsReachable(state)) + Number(targetIsReachable(state)) + Number(state.onward === 'lives');
}
