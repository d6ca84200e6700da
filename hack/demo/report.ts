import { styleText } from 'node:util';
import type { Migration, Move, Outcome, RedisScenario } from '../../test/scenario.ts';
import type { Narrator } from './narrator.ts';
import { type Bar, type BarKind, drawTimeline } from './timeline.ts';

const WIDTH = 100;
const INDENT = '  ';
const COLOURS = { serving: 'green', frozen: 'cyan', waiting: 'yellow', axis: 'dim' } as const;

/** Name of each program to its version. */
export type Versions = Record<'gantry' | 'node' | 'containerd' | 'runc' | 'criu' | 'kernel', string>;

/** What `out/demo.json` holds. */
export interface DemoRecord {
  moves: {
    from: string;
    to: string;
    maxGapMs: number;
    phases: { name: string; startMs: number; durationMs: number }[];
    bytesSent: number;
  }[];
  client: { requests: number; lost: number; repeated: number; reconnects: number };
  versions: Versions;
}

export function recordOf(scenario: RedisScenario, outcome: Outcome, versions: Versions): DemoRecord {
  const { requests, lost, repeated, reconnects } = outcome;
  return {
    moves: scenario.moves.map((move) => ({
      from: move.from,
      to: move.to,
      maxGapMs: scenario.gapOf(move).durationMs,
      phases: move.migration.phases,
      bytesSent: move.migration.bytesSent,
    })),
    client: { requests, lost, repeated, reconnects },
    versions,
  };
}

/** One chart for each move, all on the same axis. */
export function printMoves(narrator: Narrator, scenario: RedisScenario): void {
  const charts = scenario.moves.map((move) => ({ move, bars: barsOf(scenario, move) }));
  const ends = charts.flatMap(({ bars }) => bars.map(({ startMs, durationMs }) => startMs + durationMs));
  for (const { move, bars } of charts) {
    const { migration } = move;
    narrator.heading(`${arrow(move)}   ${mib(migration)}, address ${migration.addresses.join(', ')} kept`);
    narrator.say(
      `${INDENT}container ${change(move.containerId, migration.containerId)}, ` +
        `sandbox ${change(move.sandboxId, migration.sandboxId)}`,
    );
    const options = { width: WIDTH - INDENT.length, endMs: Math.max(...ends), paint };
    for (const line of drawTimeline(bars, options)) narrator.say(INDENT + line);
  }
  const legend = { serving: '░ Redis serves', frozen: '█ Redis is frozen', waiting: '├─┤ the client waits' };
  const parts = Object.entries(legend).map(([kind, text]) => paint(kind as BarKind, text));
  narrator.say(`\n${INDENT}${parts.join('   ')}`);
}

export function printOutcome(narrator: Narrator, scenario: RedisScenario, outcome: Outcome, versions: Versions): void {
  const { requests, lost, repeated, reconnects, digestBefore, digestAfter } = outcome;
  const gaps = scenario.moves.map((move) => `${arrow(move)} ${scenario.gapOf(move).durationMs.toFixed(0)} ms`);
  narrator.heading('Result');
  narrator.item('requests', `${requests}: ${lost} lost, ${repeated} repeated, ${reconnects} reconnects`);
  narrator.item('gap', `longest ${gaps.join(', ')}; ${scenario.gapAtRest().durationMs.toFixed(0)} ms without a move`);
  narrator.item(
    'data',
    digestBefore === digestAfter
      ? `identical, SHA-256 ${digestAfter.slice(0, 16)}…`
      : `DIFFERENT: ${digestBefore.slice(0, 16)}… became ${digestAfter.slice(0, 16)}…`,
  );
  const { gantry, node, containerd, runc, criu, kernel } = versions;
  narrator.item(
    'with',
    `gantry ${gantry}, Node ${node}, containerd ${containerd}, runc ${runc}, CRIU ${criu}, Linux ${kernel}`,
  );
}

/** What went wrong, a sentence each; nothing when all is as it should be. */
export function faultsOf(outcome: Outcome): string[] {
  const { lost, repeated, reconnects, digestBefore, digestAfter } = outcome;
  const faults: string[] = [];
  if (lost > 0) faults.push(`${lost} requests were not answered, or their answers skipped a number`);
  if (repeated > 0) faults.push(`${repeated} answers came twice`);
  if (reconnects > 0) faults.push('the connection did not survive');
  if (digestBefore !== digestAfter) faults.push('the data are not what they were');
  return faults;
}

export function arrow({ from, to }: Move): string {
  return `${from} → ${to}`;
}

export function mib({ bytesSent }: Migration): string {
  return `${(bytesSent / 1024 / 1024).toFixed(1)} MiB sent`;
}

function barsOf(scenario: RedisScenario, move: Move): Bar[] {
  const { phases } = move.migration;
  const frozenFrom = phases.find(({ name }) => name === 'freeze')?.startMs ?? Number.POSITIVE_INFINITY;
  const resumed = phases.find(({ name }) => name === 'resume');
  const frozenUntil = resumed === undefined ? Number.POSITIVE_INFINITY : resumed.startMs + resumed.durationMs;
  const isFrozen = (startMs: number) => startMs >= frozenFrom && startMs < frozenUntil;
  const bars = phases.map((phase): Bar => ({ ...phase, kind: isFrozen(phase.startMs) ? 'frozen' : 'serving' }));
  // By their start: the agent tells them by their end.
  bars.sort((one, other) => one.startMs - other.startMs);
  return [...bars, { name: 'longest gap', ...scenario.gapOf(move), kind: 'waiting' }];
}

function change(before: string, after: string): string {
  return `${before.slice(0, 12)} → ${after.slice(0, 12)}`;
}

function paint(kind: BarKind | 'axis', text: string): string {
  return styleText(COLOURS[kind], text, { stream: process.stdout });
}
