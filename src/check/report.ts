import { CheckReport, type CheckRequest } from '../gen/gantry/v1/agent.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import type { ContainerFacts } from './facts.ts';
import { assumptions, type Load, predict } from './figures.ts';
import { type Finding, type Verdict, verdictOf, worst } from './finding.ts';
import type { DirtyFigures } from './proc/dirty.ts';
import type { MemoryFacts } from './proc/memory.ts';
import type { NodeFacts } from './proc/node.ts';

/** A container of which everything is known. */
export interface Checked {
  readonly facts: ContainerFacts;
  readonly memory: MemoryFacts;
  readonly dirty: DirtyFigures;
  readonly findings: readonly Finding[];
}

/** Pure: what is told of a check, with verdicts and predictions. */
export function report(about: {
  readonly request: CheckRequest;
  readonly node: string;
  readonly container: ContainerDetail;
  readonly checked: readonly Checked[];
  readonly findings: readonly Finding[];
  readonly here: NodeFacts;
  readonly there: NodeFacts | undefined;
}): CheckReport {
  const { request, node, container, checked, findings, here, there } = about;
  const containers = checked.map(({ facts, memory, dirty, findings: own }) => ({
    containerId: facts.id,
    name: facts.name,
    verdict: verdictOf(own),
    findings: [...own],
    memory: {
      lazyBytes: BigInt(memory.bytes.lazy),
      sharedBytes: BigInt(memory.bytes.shared),
      copiedBytes: BigInt(memory.bytes.copied),
      lockedBytes: BigInt(memory.bytes.locked),
      hugeBytes: BigInt(memory.bytes.huge),
      swappedBytes: BigInt(memory.swapped),
      filesBytes: facts.filesBytes === undefined ? undefined : BigInt(facts.filesBytes),
    },
    dirty,
    processes: facts.processes.length,
  }));
  const verdict = worst([verdictOf(findings), ...containers.map((one) => one.verdict)]);
  return CheckReport.fromPartial({
    verdict,
    pod: container.sandbox.config.metadata?.name ?? '',
    sandboxId: container.sandbox.id,
    node,
    to: request.to,
    containers,
    findings: [...findings],
    predictions: predict(loadOf(request, checked, verdict, here, there)).map((one) => ({
      ...one,
      bytes: BigInt(Math.round(one.bytes)),
    })),
    assumptions: assumptions(request),
  });
}

function loadOf(
  { bandwidthMbit }: CheckRequest,
  checked: readonly Checked[],
  verdict: Verdict,
  here: NodeFacts,
  there: NodeFacts | undefined,
): Load {
  const total = (of: (one: Checked) => number) => checked.reduce((all, one) => all + of(one), 0);
  const kinds = ['lazy', 'shared', 'copied', 'locked', 'huge'] as const;
  const memory = Object.fromEntries(kinds.map((kind) => [kind, total(({ memory: one }) => one.bytes[kind])]));
  const target = there ?? here;
  return {
    memory: memory as MemoryFacts['bytes'],
    filesBytes: total(({ facts }) => facts.filesBytes ?? 0),
    dirtyBytesPerSecond: total(({ dirty }) => dirty.bytesPerSecond),
    bandwidthMbit,
    possible: {
      live: verdict === 'cold' || verdict === 'no' ? `the verdict is ${verdict}` : '',
      hybrid: target.hasUserfaultfd ? '' : `node ${target.node} has no userfaultfd`,
      preCopy: here.hasSoftDirty ? '' : `the kernel of node ${here.node} does not mark written pages`,
      cold: verdict === 'no' ? 'the verdict is no' : '',
    },
  };
}
