import { closeSync, openSync } from 'node:fs';
import { expect, test } from 'vitest';
import { takePassedSocket } from './activation.ts';

const env = (fields: Record<string, string>): NodeJS.ProcessEnv => ({ LISTEN_PID: '7', LISTEN_FDS: '1', ...fields });

test.each([
  [{}, 'nothing was passed'],
  [{ LISTEN_PID: '7' }, 'no number'],
  [env({ LISTEN_FDS: '0' }), 'none'],
  [env({ LISTEN_PID: '8' }), "a parent's"],
])('%j: %s', (fields) => {
  const before = { ...fields };
  expect(takePassedSocket('cri', fields, 7)).toBeUndefined();
  expect(fields).toEqual(before);
});

test('a descriptor that is no socket is refused', () => {
  const file = openSync('/dev/null', 'r'); // so that 3 is open, whatever the test runner has there
  try {
    const high = env({ LISTEN_FDS: String(file - 2), LISTEN_FDNAMES: `${'x:'.repeat(file - 3)}cri` });
    expect(() => takePassedSocket('cri', high, 7)).toThrow(`descriptor ${file} is none`);
    expect(high).toEqual({});
  } finally {
    closeSync(file);
  }
});

test('of several sockets the name decides', () => {
  expect(() => takePassedSocket('cri', env({ LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b' }), 7)).toThrow(
    expect.objectContaining({ reason: 'USAGE', hint: expect.stringContaining('FileDescriptorName=cri') }),
  );
});
