import { Command } from 'commander';
import { expect, test } from 'vitest';
import { addProbeOptions, type ProbeOptions, parseExec, parseHttp, probesOf } from './probes.ts';

test('a port and a path are told apart', () => {
  expect(parseHttp('8080/healthz?x=1')).toEqual({ port: 8080, path: '/healthz?x=1' });
  expect(parseHttp('80')).toEqual({ port: 80, path: '/' });
});

test.each(['', '/healthz', '0/x', '65536/x', '80x'])('%s is no port and path', (text) => {
  expect(() => parseHttp(text)).toThrow('it is a port');
});

test('a command is a line for the shell, or its words', () => {
  expect(parseExec('redis-cli ping')).toEqual(['/bin/sh', '-c', 'redis-cli ping']);
  expect(parseExec('["redis-cli", "ping"]')).toEqual(['redis-cli', 'ping']);
  for (const text of ['[', '[]', '[1]']) expect(() => parseExec(text)).toThrow('JSON array of words');
});

test('each option becomes a probe with the same limit', () => {
  const command = addProbeOptions(new Command());
  const args = ['--verify-tcp', '6379', '--verify-http', '80/x', '--verify-exec', 'true', '--verify-timeout', '0.5'];
  command.parse(args, { from: 'user' });
  expect(probesOf(command.opts<ProbeOptions>())).toMatchObject([
    { tcpPort: 6379, limitMs: 500 },
    { http: { port: 80, path: '/x' }, limitMs: 500 },
    { exec: { command: ['/bin/sh', '-c', 'true'] }, limitMs: 500 },
  ]);
  expect(probesOf(addProbeOptions(new Command()).parse([], { from: 'user' }).opts())).toEqual([]);
});
