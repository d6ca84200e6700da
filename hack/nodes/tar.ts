/** One entry of an archive; paths are relative and without a slash at the end. */
export type Entry =
  | { readonly path: string; readonly type: 'folder'; readonly mode?: number }
  | { readonly path: string; readonly type: 'link'; readonly target: string }
  | { readonly path: string; readonly type: 'file'; readonly content: Buffer; readonly mode?: number };

const BLOCK = 512;

/**
 * A ustar archive (POSIX.1-1988) whose bytes depend on the entries alone: sorted, owned by root, dated 1970. That
 * gives an image the same digest on every node and after every rebuild.
 */
export function tar(entries: readonly Entry[]): Buffer {
  const sorted = [...entries].sort((a, b) => (a.path < b.path ? -1 : 1));
  const parts = sorted.flatMap((entry) => {
    const content = entry.type === 'file' ? entry.content : Buffer.alloc(0);
    return [header(entry, content.length), content, Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK)];
  });
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}

const FLAGS = { file: '0', link: '2', folder: '5' } as const;

function header(entry: Entry, size: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  const name = entry.type === 'folder' ? `${entry.path}/` : entry.path;
  if (Buffer.byteLength(name) > 100) throw new RangeError(`path too long for a ustar header: ${name}`);
  const mode = entry.type === 'link' ? 0o777 : (entry.mode ?? (entry.type === 'folder' ? 0o755 : 0o644));
  block.write(name, 0);
  block.write(octal(mode, 7), 100);
  block.write(octal(0, 7), 108);
  block.write(octal(0, 7), 116);
  block.write(octal(size, 11), 124);
  block.write(octal(0, 11), 136);
  block.write(FLAGS[entry.type], 156);
  if (entry.type === 'link') block.write(entry.target, 157);
  block.write('ustar\u000000', 257);
  // The sum counts its own field as spaces.
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${octal(sum, 6)}\0 `, 148);
  return block;
}

function octal(value: number, width: number): string {
  return value.toString(8).padStart(width, '0');
}
