import { formatTable } from '../../src/cli/output.ts';
import { RELAYS } from './faults.ts';
import type { Figures } from './figures.ts';
import { describeMemoryRule } from './growth.ts';
import { PLAN, RELAY } from './plan.ts';

const MIB = 1024 * 1024;
const OFFENCES_SHOWN = 20;

/** The figures for people. */
export function formatReport(figures: Figures): string {
  const sections = [
    heading(figures),
    callsTable(figures),
    section('Failed because they had to', excuses(figures)),
    section('Connections', connections(figures)),
    section('The restarted relay', relayEnds(figures)),
    section('containerd', runtimeReturns(figures)),
    section('Growth of the steady relay', growth(figures)),
    section(`Offences: ${figures.offences.length}`, offences(figures)),
  ];
  return sections.join('\n\n');
}

function heading({ lengthMs, interrupted, relayEnds, containerdReturns, loopLagMs, podCycles }: Figures): string {
  const count = (kind: string) => relayEnds.filter((end) => end.kind === kind).length;
  return [
    `Soak of gantry proxy, ${(lengthMs / 60_000).toFixed(1)} minutes${interrupted ? ', interrupted' : ''}`,
    `  relay killed ${count('relay-killed')} times and stopped ${count('relay-stopped')} times, containerd killed ${containerdReturns.length} times`,
    `  whole lives of pods: ${RELAYS.map((relay) => `${podCycles[relay]} through the ${relay} relay`).join(', ')}`,
    `  --upstream-wait ${RELAY.upstreamWaitMs}, --drain-timeout ${RELAY.drainTimeoutMs}; the soak's own clock was late by at most ${ms(loopLagMs)}`,
  ].join('\n');
}

function callsTable({ calls }: Figures): string {
  const rows = calls.map((each) => [
    each.relay,
    each.method,
    String(each.calls),
    String(each.ok),
    String(each.hadToFail),
    String(each.consequences),
    String(each.offences),
    ms(each.p50Ms),
    ms(each.p99Ms),
    ms(each.maxMs),
  ]);
  const head = ['RELAY', 'METHOD', 'CALLS', 'OK', 'HAD TO FAIL', 'CONSEQUENCE', 'OFFENCE', 'P50', 'P99', 'LONGEST'];
  return `${formatTable([head, ...rows])}\n(P50 and P99 of calls that no fault touched, the longest of all that succeeded)`;
}

function excuses({ excused }: Figures): string[] {
  return excused.length === 0 ? ['none'] : excused.map(({ why, message, count }) => `${count}  ${why}: ${message}`);
}

function connections({ connects, reconnects }: Figures): string[] {
  return RELAYS.map((relay) => {
    const { attempts, failed, slowestMs } = connects[relay];
    return `${relay}: connect() tried ${attempts} times, refused ${failed} times, slowest ${ms(slowestMs)}; kubelet reconnected ${reconnects[relay]} times`;
  });
}

function relayEnds({ relayEnds: ends, restarted }: Figures): string[] {
  const each = ends.map(
    ({ kind, at, goneMs, backMs }) =>
      `+${(at / 1000).toFixed(1)} s ${kind}: gone after ${ms(goneMs)}, the next one serves after ${ms(backMs)}`,
  );
  const { processes, maxBytes, maxDescriptors } = restarted;
  return [...each, `${processes} processes, of which none had more than ${mib(maxBytes)} and ${maxDescriptors} fds`];
}

function runtimeReturns({ containerdReturns }: Figures): string[] {
  const lines = containerdReturns.map(({ at, acceptingMs, answeringMs, lagMs, clockLateMs }) => {
    const lags = RELAYS.map((relay) => `${relay} ${lagMs[relay] === undefined ? 'was away itself' : ms(lagMs[relay])}`);
    return `+${(at / 1000).toFixed(1)} s killed: accepts after ${ms(acceptingMs)}, answers directly after ${ms(answeringMs)}; first answer through the relays after that: ${lags.join(', ')} (clock late by ${ms(clockLateMs)})`;
  });
  const most = Math.max(0, ...containerdReturns.flatMap(({ lagMs }) => Object.values(lagMs)));
  return [
    ...lines,
    `latest first answer ${ms(most)} after the direct one; allowed are ${PLAN.returnLagMs} ms, and what the clock was late`,
  ];
}

function growth({ memory, descriptors, quiet, quietSkipped }: Figures): string[] {
  const lines: string[] = [];
  if (memory !== undefined) {
    const { startBytes, warmBytes, endBytes, maxBytes, allowedBytes, grows } = memory;
    const verdict = grows === undefined ? 'not judged' : grows ? 'IT GROWS' : 'it does not grow';
    lines.push(
      `memory: ${mib(startBytes)} at start, ${mib(warmBytes)} after warm-up, ${mib(endBytes)} at the end, at most ${mib(maxBytes)}: ${verdict}`,
      `  rule: ${describeMemoryRule()}; here ${mib(allowedBytes)}`,
    );
  }
  const { first, last, max } = descriptors;
  const held = (name: 'descriptors' | 'streams' | 'connections') =>
    [...new Set(quiet.steady.map((moment) => moment[name]))].join(', ') || 'never seen';
  lines.push(
    `descriptors: ${first} at start, ${last} at the end, at most ${max}`,
    `${quiet.steady.length} quiet moments (${quietSkipped} skipped): ${held('descriptors')} descriptors, ${held('streams')} streams, ${held('connections')} connections`,
    '  rule: at each quiet moment the same as at the first, also for the processes of the restarted relay',
  );
  return lines;
}

function offences({ offences: all }: Figures): string[] {
  const lines = all
    .slice(0, OFFENCES_SHOWN)
    .map(
      ({ at, relay, what, why, message, nearest }) =>
        `+${(at / 1000).toFixed(3)} s ${relay ?? ''} ${what}: ${why}: ${message} (${nearest ?? 'no fault yet'})`,
    );
  return all.length > lines.length ? [...lines, `… and ${all.length - lines.length} more`] : lines;
}

function section(title: string, lines: readonly string[]): string {
  return [title, ...lines.map((line) => `  ${line}`)].join('\n');
}

function ms(value: number | undefined): string {
  if (value === undefined) return '-';
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

function mib(bytes: number): string {
  return `${(bytes / MIB).toFixed(1)} MiB`;
}
