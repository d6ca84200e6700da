import type { Node } from '../agent/node.ts';
import { Operation } from '../agent/operation.ts';
import { check } from '../check/check.ts';
import { type Verdict, worst } from '../check/finding.ts';
import { checkMovable } from '../checkpoint/preflight.ts';
import { GantryError } from '../errors.ts';
import { CheckRequest, type Finding, type MigrateRequest } from '../gen/gantry/v1/agent.ts';
import { runtimeOf } from '../runtime/containerd.ts';
import type { ContainerDetail } from '../runtime/cri.ts';
import { checkTracking } from '../runtime/criu.ts';
import { MODES } from './modes.ts';

/** How a pod moves. Cold: its files and its address; the processes are stopped here and started anew there. */
export type Mode = 'stop-and-copy' | 'cold';

/** Of a moment: by the time of the freeze they may be gone, and if not the dump says so. */
const PASSING = new Set(['uninterruptible-task', 'connection-backlog', 'netlink-unread']);

/** The target refuses these itself before anything is frozen, with a reason of their own. */
const SAID_BY_TARGET = new Set(['peer-criu-missing', 'peer-image-missing', 'peer-space']);

export interface Chosen {
  readonly mode: Mode;
  /** What is lost all the same, and why it is no better mode. */
  readonly warnings: readonly string[];
}

/**
 * Decides how these containers move: as asked for, or as the check of them and of both nodes says. Nothing is touched.
 * Errors: USAGE, UNSUPPORTED (what prevents the mode), MANAGED_BY_KUBELET, NOT_RUNNING, those of the check.
 */
export async function chooseMode(
  node: Node,
  { to, mode: wanted, force }: Pick<MigrateRequest, 'to' | 'mode' | 'force'>,
  containers: readonly ContainerDetail[],
  operation: Operation,
): Promise<Chosen> {
  if (wanted !== '' && !(MODES as readonly string[]).includes(wanted))
    throw new GantryError('USAGE', `there is no mode "${wanted}"`, { hint: `it is one of ${MODES.join(', ')}` });
  if (wanted === 'hot') {
    throw new GantryError(
      'UNSUPPORTED',
      'memory cannot follow a pod that already goes on: this version has no hot mode',
      {
        hint: '--mode stop-and-copy keeps memory and connections, and freezes the pod while its memory is sent',
      },
    );
  }
  if (wanted === 'pre-copy') await refusePreCopy(containers);
  const mayBeCold = wanted === 'auto' || wanted === 'cold';
  await checkMovable(containers, node.cri, force, mayBeCold ? 'cold' : 'live');
  if (wanted === 'cold') return { mode: 'cold', warnings: [] };

  const all = await survey(node, to, containers, operation);
  const findings = mayBeCold ? all : all.filter(({ id }) => !SAID_BY_TARGET.has(id));
  const verdict = worst(findings.map(({ severity }) => severity as Verdict));
  const of = (severity: Verdict) => findings.filter((one) => one.severity === severity);
  if (verdict === 'no' || (verdict === 'cold' && !mayBeCold)) throw refusal(of(verdict)[0] as Finding, verdict);
  const told = [...of('cold'), ...of('warm')].map(({ id, seen, why }) => `${id}: ${seen}: ${why}`);
  return { mode: verdict === 'cold' ? 'cold' : 'stop-and-copy', warnings: told };
}

/** Rounds of dirty pages need a kernel that marks them. Errors: UNSUPPORTED. */
async function refusePreCopy(containers: readonly ContainerDetail[]): Promise<never> {
  for (const { id } of containers) await checkTracking(id, await runtimeOf(id));
  throw new GantryError('UNSUPPORTED', 'this version copies no memory in rounds', {
    hint: '--mode stop-and-copy',
  });
}

/** What gantry check finds, but for what is of the moment. It looks once: how fast memory is written is of no matter here. */
async function survey(
  node: Node,
  to: string,
  containers: readonly ContainerDetail[],
  operation: Operation,
): Promise<Finding[]> {
  const [first] = containers as [ContainerDetail];
  const looking = new Operation(operation.subject);
  const cancel = () => void looking.cancel();
  operation.signal.addEventListener('abort', cancel, { once: true });
  try {
    const target = containers.length === 1 ? first.id : first.sandbox.id;
    const { check: report } = await check(
      node,
      CheckRequest.fromPartial({ target, to, windowSeconds: 0, bandwidthMbit: 1000 }),
      looking,
    );
    const all = [...(report?.findings ?? []), ...(report?.containers ?? []).flatMap(({ findings }) => findings)];
    return all.filter(({ id }) => !PASSING.has(id));
  } finally {
    operation.signal.removeEventListener('abort', cancel);
  }
}

function refusal({ id, seen, why, todo }: Finding, verdict: Verdict): GantryError {
  const cold = '--mode cold moves files and address, and starts the processes anew';
  return new GantryError(
    'UNSUPPORTED',
    `it cannot be moved ${verdict === 'no' ? 'at all' : 'as it runs'}: ${seen} (${id}): ${why}`,
    {
      hint: verdict === 'no' ? todo : `${todo}; or ${cold}`,
    },
  );
}
