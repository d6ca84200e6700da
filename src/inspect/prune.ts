import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../errors.ts';
import type { Found, Survey } from './survey.ts';

/** What may stay of each container's checkpoints; at least one is given. */
export interface Limits {
  readonly olderThanMs?: number | undefined;
  /** How many, the newest. */
  readonly keep?: number | undefined;
  /** Of one container's together; the newest stays whatever its size. */
  readonly maxBytes?: number | undefined;
}

export interface Removal {
  readonly path: string;
  /** "NAMESPACE/POD/CONTAINER", or which kind it is of those that cannot be read. */
  readonly group: string;
  /** ISO 8601. */
  readonly created: string;
  readonly sizeBytes: number;
  readonly why: string;
  /** What has it for a parent, and goes before it. */
  readonly neededBy?: readonly string[];
}

export interface LeftAlone {
  readonly path: string;
  readonly why: string;
}

export interface Plan {
  /** The oldest of each container first; but what needs another one before that. */
  readonly removals: readonly Removal[];
  readonly kept: readonly string[];
  /** What was not recognised, what is damaged or cannot be read, and what something else needs that stays. */
  readonly leftAlone: readonly LeftAlone[];
}

const DAY_MS = 86_400_000;
const ENCRYPTED = 'encrypted';
const UNFINISHED = 'unfinished';
/** Whether what is encrypted is a checkpoint only its name can tell. */
const NAMED_AS_ARCHIVE = /\.tar(\.|$)/;

/** What is to be removed; nothing is yet. @param now in milliseconds since 1970 */
export function planOf({ found, others }: Survey, folder: string, limits: Limits, now: number): Plan {
  const leftAlone: LeftAlone[] = others.map((name) => ({ path: join(folder, name), why: 'it is no checkpoint' }));
  const groups = new Map<string, Found[]>();
  for (const one of found) {
    const why = reasonToLeave(one, now);
    if (why !== undefined) {
      leftAlone.push({ path: one.path, why });
      continue;
    }
    const group = groupOf(one);
    groups.set(group, [...(groups.get(group) ?? []), one]);
  }
  const removals: Removal[] = [];
  const kept: string[] = [];
  for (const [group, members] of groups) {
    const newestFirst = members.toSorted((one, other) => timeOf(other) - timeOf(one));
    let bytes = 0;
    const goes: Removal[] = [];
    for (const [index, one] of newestFirst.entries()) {
      bytes += one.sizeBytes;
      const why = whyItGoes({ one, group, index, bytes }, limits, now);
      if (why === undefined) kept.push(one.path);
      else
        goes.push({
          path: one.path,
          group,
          created: new Date(timeOf(one)).toISOString(),
          sizeBytes: one.sizeBytes,
          why,
        });
    }
    removals.push(...goes.reverse());
  }
  return withoutNeeded({ removals, kept, leftAlone }, found);
}

/** A parent stays as long as something needs it that stays. */
function withoutNeeded({ removals, kept, leftAlone }: Plan, found: readonly Found[]): Plan {
  const children = new Map<string, string[]>();
  for (const { path, parent } of found)
    if (parent !== undefined) children.set(parent, [...(children.get(parent) ?? []), path]);
  if (children.size === 0) return { removals, kept, leftAlone };
  let goes = new Map(removals.map((one) => [one.path, one]));
  const needed: LeftAlone[] = [];
  for (let before = -1; before !== goes.size; ) {
    before = goes.size;
    goes = new Map(
      [...goes].filter(([path]) => {
        const child = children.get(path)?.find((one) => !goes.has(one));
        if (child !== undefined) needed.push({ path, why: `${child} needs it: part of that one's memory is in it` });
        return child === undefined;
      }),
    );
  }
  const ordered = new Map<string, Removal>();
  const put = (removal: Removal): void => {
    const neededBy = children.get(removal.path) ?? [];
    for (const child of neededBy) if (!ordered.has(child)) put(goes.get(child) as Removal);
    ordered.set(removal.path, neededBy.length === 0 ? removal : { ...removal, neededBy });
  };
  for (const removal of goes.values()) put(removal);
  return { removals: [...ordered.values()], kept, leftAlone: [...leftAlone, ...needed] };
}

function reasonToLeave(
  { state, why, packing, name, modified, facts, stranger }: Found,
  now: number,
): string | undefined {
  const isSealed = packing === 'encrypted' && facts === undefined;
  if (isSealed && !NAMED_AS_ARCHIVE.test(name))
    return 'it is encrypted, and its name does not say that it is an archive';
  if (state === 'unfinished') {
    const isYoung = now - modified.getTime() < DAY_MS;
    return isYoung ? 'it may still be being written: it is younger than a day' : undefined;
  }
  if (isSealed) return undefined;
  if (stranger !== undefined) return `somebody has put ${stranger} into it`;
  return state === 'damaged' || facts === undefined ? why : undefined;
}

function groupOf({ state, facts }: Found): string {
  if (state === 'unfinished') return UNFINISHED;
  if (facts === undefined) return ENCRYPTED;
  return `${facts.pod.namespace}/${facts.pod.name}/${facts.container.name}`;
}

/** When it was made; of one that does not tell, when it was written. */
function timeOf({ facts, modified }: Found): number {
  const created = Date.parse(facts?.created ?? '');
  return Number.isNaN(created) ? modified.getTime() : created;
}

function whyItGoes(
  { one, group, index, bytes }: { one: Found; group: string; index: number; bytes: number },
  { olderThanMs, keep, maxBytes }: Limits,
  now: number,
): string | undefined {
  if (group === UNFINISHED) return 'never finished, and older than a day';
  if (olderThanMs !== undefined && now - timeOf(one) > olderThanMs) return 'over --older-than';
  // Whose they are is not known: which of them is somebody's last one is not, either.
  if (group === ENCRYPTED) return undefined;
  if (keep !== undefined && index >= keep) return `over --keep ${keep}`;
  return maxBytes !== undefined && index > 0 && bytes > maxBytes ? 'over --max-size' : undefined;
}

/** Removes what a plan says, until the signal; goes on where something cannot be removed: those are told. */
export async function carryOut(
  { removals }: Plan,
  signal?: AbortSignal,
): Promise<{ done: Removal[]; failed: LeftAlone[] }> {
  const done: Removal[] = [];
  const failed: LeftAlone[] = [];
  for (const removal of removals) {
    if (signal?.aborted) break;
    const child = removal.neededBy?.find((path) => failed.some((one) => one.path === path));
    if (child !== undefined) {
      failed.push({ path: removal.path, why: `${child} needs it` });
      continue;
    }
    try {
      await rm(removal.path, { recursive: true });
      done.push(removal);
    } catch (error) {
      failed.push({ path: removal.path, why: messageOf(error) });
    }
  }
  return { done, failed };
}
