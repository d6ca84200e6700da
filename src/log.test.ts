import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, onTestFinished, test } from 'vitest';
import { PullImageRequest } from './gen/cri.ts';
import { logTo } from './log.ts';

function gather(level?: 'trace' | 'info') {
  const lines: string[] = [];
  return { log: logTo({ write: (line: string) => void lines.push(line) }, level), lines };
}

test('an event is one line of JSON: level, time, name, fields', () => {
  const { log, lines } = gather();
  log.info('started', { listen: '/run/x.sock', bytes: 12n });
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatch(/^\{"level":"info","time":"[^"]+Z","event":"started",.*\}\n$/);
  expect(JSON.parse(lines[0] ?? '')).toMatchObject({ listen: '/run/x.sock', bytes: 12 });
});

test('a child adds its fields, and levels below the limit are not written', () => {
  const { log, lines } = gather();
  const child = log.child({ peer: 'b' });
  child.debug('quiet');
  child.warn('loud', { why: 'x' });
  expect(lines.map((line) => JSON.parse(line))).toEqual([
    expect.objectContaining({ level: 'warn', peer: 'b', why: 'x' }),
  ]);
  expect([log.writes('debug'), log.writes('info')]).toEqual([false, true]);
  expect(gather('trace').log.writes('trace')).toBe(true);
});

describe('credentials never reach the log', () => {
  const auth = {
    username: 'robot-7',
    password: 'hunter2-pw',
    auth: 'cm9ib3Q6aHVudGVyMg==',
    serverAddress: 'registry.example',
    identityToken: 'id-tok-123',
    registryToken: 'reg-tok-456',
  };
  const secrets = ['robot-7', 'hunter2-pw', 'cm9ib3Q6aHVudGVyMg==', 'id-tok-123', 'reg-tok-456'];
  const request = PullImageRequest.fromPartial({ image: { image: 'redis:8' }, auth });

  test.each([
    ['a decoded PullImageRequest', { request }],
    ['its fields', { ...request }],
    ['deep inside', { calls: [{ method: { message: { body: { request } } } }] }],
    ['the names that protobuf uses', { a: { registry_token: auth.registryToken, identity_token: auth.identityToken } }],
    ['the credentials alone', { password: auth.password, Authorization: `Basic ${auth.auth}` }],
    ['an encoded request', { request: PullImageRequest.encode(request).finish() }],
    ['a URL in an error', { error: new Error(`GET https://robot-7:hunter2-pw@registry.example/v2: 401`) }],
    ['a header in a text', { message: `sent "Authorization: Bearer reg-tok-456" and got 401` }],
  ])('%s', (_what, fields) => {
    const { log, lines } = gather('trace');
    log.error('pull-failed', fields);
    log.child(fields).trace('again');
    for (const secret of secrets) expect(lines.join('')).not.toContain(secret);
    expect(lines).toHaveLength(2);
  });
});

test('a log that nobody reads does not stop the program', async () => {
  const program = `
    import { logToStderr } from ${JSON.stringify(new URL('./log.ts', import.meta.url).href)};
    const log = logToStderr();
    for (let i = 0; i < 5000; i += 1) log.info('filler', { text: 'x'.repeat(1000) });
    setTimeout(() => process.stdout.write('alive'), 50);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  // Nothing reads stderr: the pipe is full after 64 KiB.
  expect(String((await once(child.stdout, 'data'))[0])).toBe('alive');
});
