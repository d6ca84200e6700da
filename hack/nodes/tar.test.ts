import { execa } from 'execa';
import { expect, test } from 'vitest';
import { tar } from './tar.ts';

test('tar reads what was written, and the order of entries does not matter', async () => {
  const folder = { path: 'bin', type: 'folder' } as const;
  const file = { path: 'bin/sh', type: 'file', content: Buffer.from('x'.repeat(600)), mode: 0o755 } as const;
  const link = { path: 'bin/ls', type: 'link', target: 'sh' } as const;
  const archive = tar([link, file, folder]);
  expect(archive.equals(tar([folder, link, file]))).toBe(true);
  const { stdout } = await execa('tar', ['--list', '--verbose', '--numeric-owner', '--utc'], { input: archive });
  expect(stdout.split('\n')).toEqual([
    'drwxr-xr-x 0/0               0 1970-01-01 00:00 bin/',
    'lrwxrwxrwx 0/0               0 1970-01-01 00:00 bin/ls -> sh',
    '-rwxr-xr-x 0/0             600 1970-01-01 00:00 bin/sh',
  ]);
});

test('a path that the format cannot hold is refused', () => {
  expect(() => tar([{ path: 'x'.repeat(101), type: 'folder' }])).toThrow('too long');
});
