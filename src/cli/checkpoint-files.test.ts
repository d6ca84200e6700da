import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { FileProgress, formatTables, identitiesIn, interruptible } from './checkpoint-files.ts';

describe('keys', () => {
  test('are the lines of files that are no comments', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'gantry-keys-'));
    const file = join(folder, 'key.txt');
    await writeFile(file, '# created: today\n# public key: age1x\nAGE-SECRET-KEY-1X\n\n  AGE-SECRET-KEY-1Y\n');
    expect(await identitiesIn([file])).toEqual(['AGE-SECRET-KEY-1X', 'AGE-SECRET-KEY-1Y']);
    await rm(folder, { recursive: true });
    await expect(identitiesIn([file])).rejects.toMatchObject({
      reason: 'USAGE',
      message: expect.stringMatching(/cannot read the key/),
    });
  });
});

describe('progress', () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  function said(isTTY: boolean): { text: () => string; stream: NodeJS.WriteStream } {
    const written: string[] = [];
    const stream = { isTTY, write: (text: string) => written.push(text) } as unknown as NodeJS.WriteStream;
    return { text: () => written.join(''), stream };
  }

  test('is told of what takes longer than a second, and not too often', () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    const { text, stream } = said(false);
    using progress = new FileProgress('a.tar', stream);
    progress.read(1, 100);
    vi.advanceTimersByTime(1500);
    progress.read(2048, 4096);
    progress.read(3000, 4096);
    expect(text()).toBe('a.tar: read 2.0 KiB of 4.0 KiB\n');
  });

  test('leaves nothing on a terminal', () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    const { text, stream } = said(true);
    {
      using progress = new FileProgress('a.tar', stream);
      progress.unpacked(1024);
      vi.advanceTimersByTime(1500);
      progress.unpacked(1024);
    }
    expect(text()).toBe('\r\x1b[Ka.tar: unpacked 2.0 KiB\r\x1b[K');
  });
});

test('a signal ends what listens to it, as cancelled', async () => {
  const work = interruptible(async (signal) => {
    process.emit('SIGINT');
    signal.throwIfAborted();
  });
  await expect(work).rejects.toMatchObject({ reason: 'CANCELLED' });
  expect(process.listenerCount('SIGHUP')).toBe(0);
});

test('tables stand below each other, each under its title', () => {
  const tables = [{ rows: [['a', 'b']] }, { title: 'Second', rows: [['c']] }, { title: 'None', rows: [] }];
  expect(formatTables(tables)).toBe('a  b\n\nSecond\nc\n\nNone');
});
