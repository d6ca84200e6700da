import { once } from 'node:events';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { parseTable } from '../check/proc/sockets.ts';
import { isNotable, isQuiet, isWaiting, quiesce, receivedBy } from './quiesce.ts';

test.each([
  ['three looks that agree', [[5, 0], [5, 0], [5, 0]], true], // biome-ignore format: a table
  ['the last three of more', [[1, 2], [4, undefined], [5, undefined], [5, 0], [5, 0]], true], // biome-ignore format: a table
  ['two looks', [[5, 0], [5, 0]], false], // biome-ignore format: a table
  ['a packet between the first two', [[4, 0], [5, undefined], [5, 0]], false], // biome-ignore format: a table
  ['a packet between the last two', [[5, 0], [5, 0], [6, undefined]], false], // biome-ignore format: a table
  ['a queue that was not empty at first', [[5, 1], [5, 0], [5, 0]], false], // biome-ignore format: a table
  ['a queue that is not empty', [[5, 0], [5, 0], [5, 1]], false], // biome-ignore format: a table
] as const)('%s', (_, looks, quiet) => {
  expect(isQuiet(looks.map(([received, waiting]) => ({ received, waiting })))).toBe(quiet);
});

/** As Linux prints a row of /proc/net/tcp: local and remote address, state, send and receive queue, inode. */
function row(local: string, remote: string, state: string, queues: string, inode = 4711): string {
  return `   0: ${local} ${remote} ${state} ${queues} 00:00000000 00000000     0        0 ${inode} 2 0 100 0 0 10 0`;
}

const POD = '0500010A:18EB'; // 10.1.0.5:6379
const CLIENT = '0100010A:C5F8';
const NONE = '00000000:00000000';

test.each([
  ['an idle connection', row(POD, CLIENT, '01', NONE), false],
  ['a request that is not read', row(POD, CLIENT, '01', '00000000:00000010'), true],
  ['an answer that is not acknowledged', row(POD, CLIENT, '01', '00000010:00000000'), true],
  ['a connection that is not accepted', row(POD, CLIENT, '01', NONE, 0), true],
  ['one that was given up before it was accepted', row(POD, CLIENT, '08', '00000000:00000001', 0), true],
  ['a handshake', row(POD, CLIENT, '03', NONE, 0), true],
  ['a handshake of the pod', row(POD, CLIENT, '02', '00000001:00000000'), true],
  ['the end of what a client sends', row(POD, CLIENT, '08', '00000000:00000001'), false],
  ['a request before that end', row(POD, CLIENT, '08', '00000000:00000011'), true],
  ['an end that is not acknowledged', row(POD, CLIENT, '09', '00000001:00000000', 0), true],
  ['a closed connection', row(POD, CLIENT, '06', NONE, 0), false],
  ['who listens, whatever waits there', row(POD, '00000000:0000', '0A', '00000000:00000003'), false],
  ['the pod itself over loopback', row('0100007F:18EB', '0100007F:C5F8', '01', '00000000:00000010'), false],
  ['the pod itself at its own address', row(POD, '0500010A:C5F8', '01', '00000000:00000010'), false],
  [
    'a client of a socket for both families',
    row(`0000000000000000FFFF0000${POD}`, `0000000000000000FFFF0000${CLIENT}`, '01', '00000000:00000010'),
    true,
  ],
])('%s: %#', (_, line, waits) => {
  const rows = parseTable('tcp', [line].filter(isNotable));
  expect(rows.some(isWaiting)).toBe(waits);
});

test('an idle connection is not looked at twice', () => {
  expect(isNotable(row(POD, CLIENT, '01', NONE))).toBe(false);
});

test('packets that a device has received are found', () => {
  const text = `Inter-|   Receive                    |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  eth0:  58630     461    0    0    0     0          0         0     5000      44    0    0    0     0       0          0
`;
  expect(receivedBy(text, 'eth0')).toBe(461);
  expect(receivedBy(text, 'eth1')).toBe(0);
  expect(receivedBy('', 'eth0')).toBe(0);
});

const isRoot = process.getuid?.() === 0;
if (!isRoot) console.log('the tests of quiesce() in network namespaces are skipped: they need root');

describe.skipIf(!isRoot)('in a network namespace', () => {
  const NEVER = new AbortController().signal;
  const SERVER = `
    const answer = (socket) => socket.on('data', () => socket.write('answer'));
    require('node:net').createServer(answer).listen(7000, '10.99.0.2', () => console.log('ready'));`;
  /** Sends something every so many milliseconds, or (0) when it is told to. */
  const clientOf = (everyMs: number) => `
    const socket = require('node:net').connect(7000, '10.99.0.2', () => console.log('ready'));
    socket.setNoDelay(true).resume();
    if (${everyMs} > 0) setInterval(() => socket.write('request'), ${everyMs});
    process.stdin.on('data', (word) => socket.write('request', () => process.stdout.write(word)));`;
  const started: { kill(signal: NodeJS.Signals): boolean }[] = [];
  let pod: number;
  let outside: number;

  function start(file: string, args: string[]) {
    const program = execa(file, args, { stdin: 'pipe', reject: false, buffer: false, timeout: 60_000 });
    started.push(program);
    return program;
  }

  async function namespace(): Promise<number> {
    const { pid } = start('unshare', ['--net', 'sleep', '60']);
    const own = await execa('readlink', ['/proc/self/ns/net']);
    await vi.waitFor(async () =>
      expect((await execa('readlink', [`/proc/${pid}/ns/net`])).stdout).not.toBe(own.stdout),
    );
    return pid as number;
  }

  async function nodeIn(pid: number, source: string) {
    const program = start('nsenter', [`--net=/proc/${pid}/ns/net`, process.execPath, '-e', source]);
    await once(program.stdout, 'data');
    return {
      signal: (name: NodeJS.Signals) => program.kill(name),
      send: async () => {
        program.stdin.write('send');
        await once(program.stdout, 'data');
      },
      [Symbol.asyncDispose]: async () => {
        program.kill('SIGKILL');
        await program;
      },
    };
  }

  async function ip(pid: number, ...commands: string[]) {
    for (const command of commands)
      await execa('nsenter', [`--net=/proc/${pid}/ns/net`, 'ip', ...command.split(' ')], { stdin: 'ignore' });
  }

  beforeAll(async () => {
    [pod, outside] = [await namespace(), await namespace()];
    await ip(pod, `link add eth0 type veth peer name eth0 netns ${outside}`, 'link set lo up', 'link set eth0 up');
    await ip(pod, 'address add 10.99.0.2/24 dev eth0');
    await ip(outside, 'address add 10.99.0.1/24 dev eth0', 'link set eth0 up');
  });
  afterAll(() => {
    for (const program of started) program.kill('SIGKILL');
  });

  test('it waits for requests to be read, and is then told at once', async () => {
    await using server = await nodeIn(pod, SERVER);
    await using client = await nodeIn(outside, clientOf(0));
    expect(await quiesce(pod, 10_000, NEVER)).toMatchObject({ quiet: true, packets: 0, waiting: 0 });

    server.signal('SIGSTOP');
    await client.send();
    const loud = await quiesce(pod, 100, NEVER);
    expect(loud).toMatchObject({ quiet: false, waiting: 1 });
    expect(loud.waitedMs).toBeGreaterThanOrEqual(100);
    expect(loud.waitedMs).toBeLessThan(1000);

    const waiting = quiesce(pod, 10_000, NEVER);
    server.signal('SIGCONT');
    expect(await waiting).toMatchObject({ quiet: true, waiting: 0 });
  });

  test('a client that never pauses is not waited for beyond the limit; an end of the wait ends it', async () => {
    await using _server = await nodeIn(pod, SERVER);
    await using _client = await nodeIn(outside, clientOf(1));
    expect(await quiesce(pod, 100, NEVER)).toMatchObject({ quiet: false });
    await expect(quiesce(pod, 10_000, AbortSignal.timeout(50))).rejects.toMatchObject({ reason: 'CANCELLED' });
  });

  test('a process that is gone holds nobody up', async () => {
    expect(await quiesce(2 ** 22 + 1, 10_000, NEVER)).toMatchObject({ quiet: true, waiting: 0 });
  });
});
