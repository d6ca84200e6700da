/** A bar of the chart; times in milliseconds since a common zero. */
export interface Bar {
  name: string;
  startMs: number;
  durationMs: number;
  /** `serving`: the pod answers meanwhile; `frozen`: it does not; `waiting`: the client's side of it. */
  kind: BarKind;
}

export type BarKind = 'serving' | 'frozen' | 'waiting';

/** How a piece of the chart is coloured; the plain chart says the same without. */
export type Paint = (kind: BarKind | 'axis', text: string) => string;

export interface ChartOptions {
  /** Columns of a line, names and numbers included. */
  width: number;
  /** Where the axis ends, so that several charts have the same one. */
  endMs: number;
  paint?: Paint;
}

const STEPS_MS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000];
const MOST_TICKS = 6;

/** Bars below each other on one time axis: name, milliseconds, bar. */
export function drawTimeline(bars: readonly Bar[], options: ChartOptions): string[] {
  const { width, endMs, paint = (_kind, text) => text } = options;
  const nameWidth = Math.max(...bars.map(({ name }) => name.length));
  const numberWidth = Math.max(2, ...bars.map(({ durationMs }) => durationMs.toFixed(0).length));
  const columns = width - nameWidth - numberWidth - 4;
  const column = (ms: number) => Math.min(columns - 1, Math.floor((ms / endMs) * columns));
  const ticks = ticksUntil(endMs);
  const grid = new Set(ticks.map(column));

  const draw = ({ name, startMs, durationMs, kind }: Bar) => {
    const from = column(startMs);
    const last = Math.ceil(((startMs + durationMs) / endMs) * columns) - 1;
    const to = Math.min(columns - 1, Math.max(from, last));
    const before = rule(0, from, grid);
    const after = rule(to + 1, columns, grid).trimEnd();
    const label = `${name.padEnd(nameWidth)}  ${durationMs.toFixed(0).padStart(numberWidth)}  `;
    return `${label}${paint('axis', before)}${paint(kind, shape(kind, to - from + 1))}${paint('axis', after)}`;
  };
  const head = `${''.padEnd(nameWidth)}  ${'ms'.padStart(numberWidth)}  ${scale(ticks, column, columns)}`;
  return [paint('axis', head.trimEnd()), ...bars.map(draw)];
}

function shape(kind: BarKind, length: number): string {
  if (kind === 'serving') return '░'.repeat(length);
  if (kind === 'frozen') return '█'.repeat(length);
  return length < 2 ? '│' : `├${'─'.repeat(length - 2)}┤`;
}

/** The empty part of a line, with the axis' ticks going through it. */
function rule(from: number, to: number, grid: ReadonlySet<number>): string {
  return Array.from({ length: Math.max(0, to - from) }, (_, index) => (grid.has(from + index) ? '┊' : ' ')).join('');
}

/** The numbers above the ticks; one that would not fit is left out. */
function scale(ticks: readonly number[], column: (ms: number) => number, columns: number): string {
  let line = '';
  for (const tick of ticks) {
    const at = column(tick);
    if (at >= line.length && at + String(tick).length <= columns) line = `${line.padEnd(at)}${tick} `;
  }
  return line.trimEnd();
}

/** Round numbers from 0 to before the end of the axis. */
export function ticksUntil(endMs: number): number[] {
  const step = STEPS_MS.find((candidate) => endMs / candidate <= MOST_TICKS) ?? endMs;
  return Array.from({ length: Math.ceil(endMs / step) }, (_, index) => index * step);
}
