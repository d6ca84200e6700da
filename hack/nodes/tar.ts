import { END, headerBlock, padded } from '../../src/archive/tar.ts';

/** One entry of an archive; paths are relative and without a slash at the end. */
export type Entry =
  | { readonly path: string; readonly type: 'folder'; readonly mode?: number }
  | { readonly path: string; readonly type: 'link'; readonly target: string }
  | { readonly path: string; readonly type: 'file'; readonly content: Buffer; readonly mode?: number };

/**
 * A ustar archive (POSIX.1-1988) whose bytes depend on the entries alone: sorted, owned by root, dated 1970. That
 * gives an image the same digest on every node and after every rebuild.
 */
export function tar(entries: readonly Entry[]): Buffer {
  const sorted = [...entries].sort((a, b) => (a.path < b.path ? -1 : 1));
  const parts = sorted.flatMap((entry) => {
    const content = entry.type === 'file' ? entry.content : Buffer.alloc(0);
    return [header(entry, content.length), content, Buffer.alloc(padded(content.length) - content.length)];
  });
  return Buffer.concat([...parts, END]);
}

const TYPES = { file: 'file', link: 'symlink', folder: 'folder' } as const;

function header(entry: Entry, size: number): Buffer {
  return headerBlock({
    name: entry.type === 'folder' ? `${entry.path}/` : entry.path,
    type: TYPES[entry.type],
    mode: entry.type === 'link' ? 0o777 : (entry.mode ?? (entry.type === 'folder' ? 0o755 : 0o644)),
    size,
    target: entry.type === 'link' ? entry.target : '',
  });
}
