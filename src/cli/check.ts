import { Command, Option } from 'commander';
import { REASONS } from '../errors.ts';
import {
  AgentService,
  type CheckReport,
  type ContainerCheck,
  type Finding,
  type Prediction,
} from '../gen/gantry/v1/agent.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, formatJson, formatTable, outputOption, parseCount } from './output.ts';

interface Options {
  to?: string;
  window: number;
  bandwidth: number;
  agent: string;
  outputFormat: Format;
}

const WIDTH = 110;

/** `gantry check`: what a move would meet, and what it would cost. */
export function checkCommand(): Command {
  return new Command('check')
    .description('tell beforehand whether a container or pod can be moved, what is in the way, and what it would cost')
    .argument(
      '<container|pod>',
      'ID, ID prefix or name of a running container; or of a pod, by its sandbox’s ID or its name',
    )
    .option('--to <node>', 'also ask this peer: processor, kernel, CRIU, image, space')
    .addOption(
      new Option('--window <seconds>', 'how long memory is watched, 0–60')
        .argParser(parseCount('--window', 0))
        .default(2),
    )
    .addOption(
      new Option('--bandwidth <mbit>', 'of the network between the nodes, for what is predicted')
        .argParser(parseCount('--bandwidth', 1))
        .default(1000),
    )
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
The verdict:
  hot   memory moves while it lives, connections are kept
  warm  a checkpoint works, but something is lost that clients or users notice
  cold  no checkpoint is possible: files and identity can move, the process starts anew
  no    it cannot be moved at all: it uses the node's network, or a device

Everything is read from the kernel while the container runs on: nothing is stopped or traced. Each finding says what was
seen, why it matters and what to do; a "hot" one is a remark. docs/check.md lists them all.

Examples:
  gantry check redis                            may it be moved, and how long would it stand still?
  gantry check redis --to node-b --window 10    can that node take it? Watch its memory for ten seconds
  gantry check web -o json | jq -r '.containers[].findings[].id'

Exit codes: 0 for hot, warm and cold, ${REASONS.UNSUPPORTED.exitCode} for no; docs/exit-codes.md lists the rest.`,
    )
    .action(async (target: string, options: Options) => {
      const { to = '', window: windowSeconds, bandwidth: bandwidthMbit } = options;
      const request = { target, to, windowSeconds, bandwidthMbit };
      const { check } = await runOperation(options.agent, AgentService.check, request);
      if (check === undefined) return;
      console.log(options.outputFormat === 'json' ? formatJson(check) : describe(check));
      if (check.verdict === 'no') process.exitCode = REASONS.UNSUPPORTED.exitCode;
    });
}

function describe(report: CheckReport): string {
  const { pod, sandboxId, node, to, verdict, containers, findings, predictions, assumptions } = report;
  const where = to === '' ? node : `${node} to ${to}`;
  return [
    `pod ${pod} (sandbox ${sandboxId.slice(0, 13)}) on ${where}: ${verdict}`,
    ...containers.map(
      (one) => `  container ${one.name} (${one.containerId.slice(0, 13)}): ${one.verdict}, ${figures(one)}`,
    ),
    ...section('pod and nodes', findings),
    ...containers.flatMap((one) => section(`container ${one.name}`, one.findings)),
    '',
    formatTable([['MODE', 'POSSIBLE', 'DOWNTIME', 'TOTAL', 'SENT', ''], ...predictions.map(row)]),
    '',
    ...assumptions.map((text, at) => `${at === 0 ? 'assumed: ' : '         '}${text}`),
  ].join('\n');
}

function figures({ memory, dirty, processes }: ContainerCheck): string {
  const lazy = Number(memory?.lazyBytes ?? 0);
  const eager = [memory?.sharedBytes, memory?.copiedBytes, memory?.lockedBytes, memory?.hugeBytes];
  const rest = eager.reduce<number>((sum, bytes) => sum + Number(bytes ?? 0), 0);
  const files = memory?.filesBytes === undefined ? '' : `, ${size(Number(memory.filesBytes))} of files`;
  return `${processes} process(es), ${size(lazy + rest)} of memory (${size(rest)} dumped while frozen)${files}${dirtied(dirty)}`;
}

function dirtied(dirty: ContainerCheck['dirty']): string {
  if (dirty === undefined || dirty.method === 'none') return '';
  const how = dirty.method === 'sampled' ? `${dirty.pages} pages compared` : 'marked by the kernel';
  return `; ${size(dirty.bytesPerSecond)}/s written (${how} over ${(dirty.windowMs / 1000).toFixed(1)} s)`;
}

function section(title: string, findings: readonly Finding[]): string[] {
  if (findings.length === 0) return [];
  return [
    '',
    title,
    ...findings.flatMap(({ id, severity, seen, why, todo }) => [
      `  ${severity.padEnd(4)}  ${id}`,
      ...wrap('seen: ', seen),
      ...wrap('why:  ', why),
      ...wrap('do:   ', todo),
    ]),
  ];
}

/** Lines of a bearable width, below a label. */
function wrap(label: string, text: string): string[] {
  const lines = [''];
  for (const word of text.split(' ')) {
    const last = lines[lines.length - 1] ?? '';
    if (last !== '' && last.length + word.length >= WIDTH) lines.push(word);
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
  }
  return lines.map((line, at) => `        ${at === 0 ? label : ' '.repeat(label.length)}${line}`);
}

function row({ mode, possible, why, downtimeMs, totalMs, bytes }: Prediction): string[] {
  const downtime = downtimeMs === undefined ? 'its start' : duration(downtimeMs);
  return possible
    ? [mode, 'yes', downtime, duration(totalMs), size(Number(bytes)), '']
    : [mode, 'no', '-', '-', '-', why];
}

function duration(ms: number): string {
  return ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function size(bytes: number): string {
  return bytes < 1024 * 1024 ? `${(bytes / 1024).toFixed(0)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
