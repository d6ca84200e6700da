import { bad, isKnown } from '../archive/layout.ts';
import { containerOf, POD_OPTIONS } from '../archive/pod.ts';
import { type TarMember, TarReader, type TarSource } from '../archive/tar.ts';

const MAX_MEMBERS = 100_000;

/** What is done with a member; its content is the reader's, at its position. */
export type Visit = (name: string, member: TarMember, tar: TarReader) => Promise<void> | void;

export interface Visits {
  readonly member: Visit;
  /** Of a pod's archive: that of one of its containers, by the container's name. Left out: there is to be none. */
  readonly container?: Visit;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Visits every file of a checkpoint's archive that has a meaning, and believes nothing of what the archive says: each
 * name once, and nothing but regular files and folders. Errors: BAD_ARCHIVE, and those of the visit.
 *
 * @param where what it is called in errors
 */
export async function walkArchive(source: TarSource, where: string, visits: Visits): Promise<void> {
  const tar = new TarReader(source, where);
  const seen = new Set<string>();
  for (let count = 0; ; count++) {
    visits.signal?.throwIfAborted();
    const member = await tar.next();
    if (member === undefined) return;
    if (count === MAX_MEMBERS) throw bad(where, `it has more than ${MAX_MEMBERS} members`);
    const name = member.name.replace(/^(\.\/)+/, '').replace(/\/$/, '');
    if (name.startsWith('/') || name.split('/').includes('..') || name.includes('\0'))
      throw bad(where, `${JSON.stringify(name)} is a path that leads out of it`);
    if (member.type === 'folder') continue;
    if (member.type !== 'file') throw bad(where, `${JSON.stringify(name)} is a ${member.type}`);
    const container = visits.container !== undefined && seen.has(POD_OPTIONS) ? containerOf(name) : undefined;
    if (container === undefined && !isKnown(name)) continue;
    if (seen.has(name)) throw bad(where, `${name} is in it twice`);
    seen.add(name);
    if (container === undefined) await visits.member(name, member, tar);
    else await visits.container?.(container, member, tar);
  }
}

/** The same bytes, until the signal; and tells how many have passed. */
export async function* abortable(
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
  passed: (bytes: number) => void = () => undefined,
): AsyncGenerator<Uint8Array> {
  for await (const piece of source) {
    signal?.throwIfAborted();
    passed(piece.length);
    yield piece;
  }
}
