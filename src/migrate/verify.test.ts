import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Node } from '../agent/node.ts';
import { Probe } from '../gen/gantry/v1/probe.ts';
import { checkProbes, verifyProbes } from './verify.ts';

type Fields = Parameters<typeof Probe.fromPartial>[0];
const probe = (fields: Fields) => Probe.fromPartial({ limitMs: 2000, ...fields });

test.each<[string, Fields]>([
  ['a port', { tcpPort: 6379 }],
  ['a path', { http: { port: 80, path: '/healthz?full=1' } }],
  ['a command', { exec: { command: ['redis-cli', 'ping'] } }],
])('%s can be asked for', (_, fields) => {
  checkProbes([probe(fields)]);
});

test.each<[string, Fields]>([
  ['nothing', {}],
  ['port 0', { tcpPort: 0 }],
  ['a port that there is not', { http: { port: 65_536, path: '/' } }],
  ['a path without a slash', { http: { port: 80, path: 'healthz' } }],
  ['a second header', { http: { port: 80, path: '/ HTTP/1.1\r\nHost: other' } }],
  ['a path without end', { http: { port: 80, path: `/${'x'.repeat(5000)}` } }],
  ['no command', { exec: { command: [] } }],
  ['a command of too many words', { exec: { command: Array.from({ length: 65 }, () => 'x') } }],
  ['a command that is too long', { exec: { command: ['x'.repeat(5000)] } }],
  ['no time', { tcpPort: 80, limitMs: 0 }],
  ['too much time', { tcpPort: 80, limitMs: 60_001 }],
])('%s is refused', (_, fields) => {
  expect(() => checkProbes([probe(fields)])).toThrow(expect.objectContaining({ reason: 'USAGE' }));
});

test('more than eight are refused', () => {
  const many = Array.from({ length: 9 }, () => probe({ tcpPort: 80 }));
  expect(() => checkProbes(many)).toThrow(expect.objectContaining({ reason: 'USAGE' }));
});

const isRoot = process.getuid?.() === 0;
if (!isRoot) console.log('the tests of probes in a network namespace are skipped: they need root');

describe.skipIf(!isRoot)('in a network namespace', () => {
  const server = createServer(({ url }, response) => {
    if (url !== '/silent') response.writeHead(Number(url?.slice(1))).end();
  });
  let port: number;
  const node = {
    cri: {
      execSync: (_: string, [word]: string[]) =>
        Promise.resolve({ exitCode: word === 'true' ? 0 : 3, stderr: Buffer.from('no such key\n') }),
    },
  } as unknown as Node;
  const ask = (fields: Fields) =>
    verifyProbes(node, { netns: '/proc/self/ns/net', address: '127.0.0.1', container: 'c' }, [probe(fields)]);

  beforeAll(async () => {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    ({ port } = server.address() as AddressInfo);
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });

  test('a port that accepts, an answer that is good and a command that ends with 0 are verified', async () => {
    await ask({ tcpPort: port });
    await ask({ http: { port, path: '/204' } });
    await ask({ http: { port, path: '/302' } });
    await ask({ exec: { command: ['true'] } });
  });

  test.each<[string, () => Fields, RegExp]>([
    ['a port at which nobody listens', () => ({ tcpPort: 1 }), /port 1 after the restore: 127.0.0.1:1: ECONNREFUSED/],
    ['an error', () => ({ http: { port, path: '/503' } }), /it answered 503/],
    ['silence', () => ({ http: { port, path: '/silent' }, limitMs: 300 }), /did not answer within 300 ms/],
    ['another exit code', () => ({ exec: { command: ['false'] } }), /the command false .*: exit code 3 no such key$/],
  ])('%s is not', async (_, fields, message) => {
    await expect(ask(fields())).rejects.toMatchObject({
      reason: 'VERIFICATION_FAILED',
      message: expect.stringMatching(message),
    });
  });
});
