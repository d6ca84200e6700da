import { describe, expect, test } from 'vitest';
import { readArguments, readEnvironment } from './arguments.ts';
import { smallCheckpoint } from './checkpoint.fixture.ts';
import { type CheckpointImages, readImages } from './checkpoint.ts';
import { encodeImage } from './encode.ts';
import { memorySource, mm } from './images.fixture.ts';
import type { Process } from './process.ts';

const read = (changed: Record<string, Buffer> = {}) => readImages(memorySource({ ...smallCheckpoint(), ...changed }));

function server({ processes }: CheckpointImages): Process {
  return processes[0] as Process;
}

describe('command line and environment', () => {
  const source = (changed: Record<string, Buffer> = {}) => memorySource({ ...smallCheckpoint(), ...changed });

  test('are read from the pages', async () => {
    const process = server(await read());
    expect(await readArguments(source(), process)).toEqual({ words: ['server', '--port', '6379'] });
    expect(await readEnvironment(source(), process)).toEqual({ words: ['HOME=/data', 'EMPTY='] });
  });

  test.each([
    ['in the checkpoint before', 1, /the one before/],
    ['with the process', 2, /stayed with the process/],
    ['nowhere', 0, /^not in this checkpoint$/],
  ])('are not in this checkpoint when their page is %s', async (_, flags, missing) => {
    const pagemap = encodeImage('PAGEMAP', [{ vaddr: 0x7000n, compat_nr_pages: 1, flags }], { head: { pages_id: 1 } });
    const process = server(await read({ 'pagemap-1.img': pagemap }));
    expect(await readArguments(source(), process)).toEqual({ missing: expect.stringMatching(missing) });
  });

  test('a process that has ended has none, one without pages neither', async () => {
    const [ended] = server(await read()).children;
    expect(await readArguments(source(), ended as Process)).toEqual({ missing: expect.stringMatching(/has ended/) });
    const { 'pagemap-1.img': _, ...rest } = smallCheckpoint();
    const process = server(await readImages(memorySource(rest)));
    expect(await readArguments(source(), process)).toEqual({ missing: 'not in this checkpoint' });
  });

  test('that the process has written over are what is there now', async () => {
    const { 'pages-1.img': pages = Buffer.alloc(0) } = smallCheckpoint();
    const process = server(await read());
    const short = Buffer.from(pages);
    short.write('server: ready\0\0\0\0\0\0', 2 * 4096);
    short.fill(0, 2 * 4096 + 0x800);
    expect(await readArguments(source({ 'pages-1.img': short }), process)).toEqual({ words: ['server: ready'] });
    expect(await readEnvironment(source({ 'pages-1.img': short }), process)).toEqual({
      missing: 'the process has overwritten it',
    });

    const long = Buffer.from(pages);
    long.write('server: a long title\0', 2 * 4096);
    const adjoining = mm([], {
      mm_arg_start: 0x7000n,
      mm_arg_end: 0x7008n,
      mm_env_start: 0x7008n,
      mm_env_end: 0x7020n,
    });
    const titled = server(await read({ 'mm-1.img': adjoining }));
    expect(await readArguments(source({ 'pages-1.img': long }), titled)).toEqual({ words: ['server: a long title'] });
  });

  test('pages that end too early are an error, and so is a range without end', async () => {
    const process = server(await read());
    const short = source({ 'pages-1.img': Buffer.alloc(2 * 4096 + 3) });
    await expect(readArguments(short, process)).rejects.toMatchObject({
      reason: 'BAD_ARCHIVE',
      message: 'pages-1.img, byte 8192: it ends before the 19 bytes its map puts here',
    });
    const endless = mm([], { mm_arg_start: 0x7000n, mm_arg_end: 2n ** 63n });
    const hostile = server(await read({ 'mm-1.img': endless }));
    await expect(readArguments(source(), hostile)).rejects.toMatchObject({ reason: 'BAD_ARCHIVE' });
  });
});
