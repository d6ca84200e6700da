import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { REPO } from '../../hack/nodes/paths.ts';
import { ensurePrograms, PROGRAMS } from '../../hack/nodes/programs.ts';
import type { CheckReport, Result } from '../../src/gen/gantry/v1/agent.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { leftoversOn } from '../e2e/leftovers.ts';
import { type LabEnvironment, labDown, labExec, labUp, type NodeEnvironment } from '../lab.ts';
import { addContainer, type Pod, type PodOptions, runPod } from '../pods.ts';
import { PostgresConnection } from '../postgres.ts';
import { RedisConnection } from '../redis.ts';
import { nodeNamed } from '../scenario.ts';

/*
 * Programs that people run: each is saved with --tcp established and ended, is started again from the archive, and has to
 * go on where it was, over the connections that it had. docs/checkpoints.md lists them.
 */

const NAME = 't-programs';
const FOLDER = '/var/tmp/programs';
const SOURCES = join(import.meta.dirname, '../programs');
const NOBODY = 65534;

let lab: LabEnvironment;
let node: NodeEnvironment;
let cri: Cri;

beforeAll(async () => {
  const archive = await ensurePrograms(AbortSignal.timeout(170_000));
  lab = await labUp({ name: NAME, nodes: 1 });
  node = nodeNamed(lab, 'a');
  cri = new Cri(node.runtimeSocket);
  await labExec(NAME, 'a', ['ctr', '-n', 'k8s.io', 'images', 'import', archive.replace(REPO, '/opt/gantry')]);
});
afterAll(async () => {
  cri?.close();
  await labDown(NAME);
});

beforeEach(() => shell(`mkdir -p ${FOLDER}`));
afterEach(async () => {
  for (const { id } of await cri.listSandboxes()) await cri.removeSandbox(id);
  await shell(`rm -r ${FOLDER}`);
  expect(await leftoversOn(lab, node)).toEqual([]);
});

const shell = async (script: string) => (await labExec(NAME, 'a', ['sh', '-c', script])).stdout;
const gantry = async <Answer = Result>(command: string) =>
  JSON.parse(await shell(`gantry ${command} -o json`)) as Answer;
const inside = async (container: string, script: string) => {
  const { pid } = await cri.describe(container);
  return (await labExec(NAME, 'a', ['nsenter', '-t', String(pid), '-m', '-n', '-p', '-r', '-w', 'sh', '-c', script]))
    .stdout;
};
/** Whether this machine has CAP_SYS_RESOURCE, and with it the lab's nodes. */
async function hasSysResource(): Promise<boolean> {
  const [, bounding = '0'] = /^CapBnd:\s*(\w+)$/m.exec(await readFile('/proc/self/status', 'utf8')) ?? [];
  return ((BigInt(`0x${bounding}`) >> 24n) & 1n) === 1n;
}

/**
 * CRIU asks the kernel for the limits of each process. Those of another user's are told to who has CAP_SYS_RESOURCE, or has
 * that user's number as its real one: where the machine lacks the capability, CRIU is given the number for a while.
 */
async function lendCriu(user: number): Promise<AsyncDisposable> {
  const find = 'criu=$(readlink -f "$(command -v criu)")';
  if (user === 0 || (await hasSysResource())) return { [Symbol.asyncDispose]: async () => undefined };
  await shell(`${find}; mv "$criu" "$criu.own"
    printf '#!/bin/sh\nexec setpriv --ruid ${user} --rgid ${user} --keep-groups %s.own "$@"\n' "$criu" >"$criu"; chmod 755 "$criu"`);
  return { [Symbol.asyncDispose]: async () => void (await shell(`${find}; mv "$criu.own" "$criu"`)) };
}

const source = (file: string) => readFile(join(SOURCES, file), 'utf8');

const run = (name: string, command: string[], options: Partial<PodOptions> = {}) =>
  runPod(node.runtimeSocket, node.pid, { name, image: PROGRAMS, command, ...options });

/** What `gantry check` says of it, but for remarks. */
async function warnings(pod: Pod): Promise<string[]> {
  const { findings, containers } = await gantry<CheckReport>(`check ${pod.sandbox} --window 0`);
  return [...findings, ...containers.flatMap((each) => each.findings)]
    .filter(({ severity }) => severity !== 'hot')
    .map(({ severity, id }) => `${severity} ${id}`);
}

/** The program ends, and one that is restored in the same sandbox takes its place. Resolves to its ID. */
async function saveAndRestore({ container, sandbox }: Pod, user = 0): Promise<string> {
  {
    await using _lent = await lendCriu(user);
    await gantry(`checkpoint ${container} --archive ${FOLDER}/a.tar --tcp established`);
  }
  await cri.removeContainer(container);
  const restored = await gantry(`restore ${FOLDER}/a.tar --sandbox ${sandbox}`);
  expect(restored.warnings).toEqual([]);
  return restored.containerId;
}

/** Connects, again and again while the program starts. */
async function open({ address: host }: Pod, port: number): Promise<Socket> {
  for (let tries = 0; ; tries++) {
    const socket = connect({ host, port, noDelay: true });
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      socket.destroy();
      if (tries === 200) throw error;
      await sleep(50);
    }
  }
}

/** A connection that is spoken to in lines. What nobody asks for stays with the sender. */
class Lines {
  readonly #socket: Socket;
  readonly #lines: AsyncGenerator<string>;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#lines = linesOf(socket);
  }

  static async open(pod: Pod, port: number): Promise<Lines> {
    return new Lines(await open(pod, port));
  }

  async next(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error('the connection has ended');
    return value;
  }

  ask(line: string): Promise<string> {
    this.#socket.write(`${line}\n`);
    return this.next();
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

async function* linesOf(socket: Socket): AsyncGenerator<string> {
  let rest = '';
  for await (const chunk of socket) {
    const lines = `${rest}${chunk}`.split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
}

/** Requests over one connection that is kept, and never made again. */
class KeptAlive {
  readonly #socket: Socket;
  readonly #chunks: AsyncIterator<Buffer>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#chunks = socket[Symbol.asyncIterator]();
  }

  static async open(pod: Pod, port: number): Promise<KeptAlive> {
    return new KeptAlive(await open(pod, port));
  }

  /** The body of the answer, which tells its length. */
  async get(path: string): Promise<string> {
    this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: pod\r\n\r\n`);
    for (let answer = ''; ; ) {
      const { value, done } = await this.#chunks.next();
      if (done === true) throw new Error('the connection has ended');
      answer += String(value);
      const [head = '', body] = answer.split('\r\n\r\n');
      const [, length] = /^content-length: (\d+)/im.exec(head) ?? [];
      if (body !== undefined && body.length === Number(length)) return body;
    }
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

test('Redis: a transaction that is open, and a client that waits for an element', async () => {
  const pod = await run('redis', ['redis-server', '--save', '', '--protected-mode', 'no'], { image: lab.images.redis });
  using one = await RedisConnection.open(pod.address);
  using two = await RedisConnection.open(pod.address);
  const id = await one.send('CLIENT', 'ID');
  await one.send('WATCH', 'watched');
  await one.send('MULTI');
  expect(await one.send('SET', 'key', 'of the transaction')).toBe('QUEUED');
  const element = two.send('BLPOP', 'list', '0');
  element.catch(() => undefined);
  expect(await warnings(pod)).toEqual([]);

  await saveAndRestore(pod);

  expect(await one.send('EXEC')).toEqual(['OK']);
  expect(await one.send('CLIENT', 'ID')).toBe(id);
  expect(String(await one.send('GET', 'key'))).toBe('of the transaction');
  await one.send('RPUSH', 'list', 'an element');
  expect(String(await element)).toBe('list,an element');
});

test('PostgreSQL: sessions with an open transaction, a cursor, a prepared statement, and one that waits for a lock', async () => {
  const start = `initdb -D /tmp/data -A trust -U postgres --locale C --no-sync >/tmp/log && echo host all all all trust >>/tmp/data/pg_hba.conf
    exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp`;
  const pod = await run('postgres', ['sh', '-c', start], { user: NOBODY });
  const session = () => PostgresConnection.open(pod.address, 'postgres');
  using writer = await session();
  using waiter = await session();
  using listener = await session();
  const identity = `SELECT pg_backend_pid(), pg_postmaster_start_time(), current_setting('work_mem'), count(*) FROM pg_stat_activity`;
  await listener.query('LISTEN news');
  await writer.query(`CREATE TABLE numbers (n int); PREPARE twice(int) AS SELECT $1 * 2; SET work_mem = '7MB'`);
  await writer.query(`BEGIN; CREATE TEMP TABLE own AS SELECT 4711 AS n; INSERT INTO numbers SELECT generate_series(1, 10000);
    DECLARE cursor CURSOR FOR SELECT n FROM numbers ORDER BY n; NOTIFY news, 'committed'`);
  expect(await writer.query('FETCH 2 FROM cursor')).toEqual([['1'], ['2']]);
  const locked = waiter.query('BEGIN; LOCK TABLE numbers; SELECT count(*) FROM numbers');
  locked.catch(() => undefined);
  const before = await writer.query(identity);
  expect(await writer.value('SELECT count(*) FROM pg_locks WHERE NOT granted')).toBe('1');
  expect(await warnings(pod)).toEqual((await hasSysResource()) ? [] : ['cold limits-of-others']);

  await saveAndRestore(pod, NOBODY);

  expect(await writer.query(identity)).toEqual(before);
  expect(await writer.query('FETCH 1 FROM cursor; SELECT * FROM own')).toEqual([['4711']]);
  expect(await writer.value('FETCH 1 FROM cursor')).toBe('4');
  await writer.query('COMMIT');
  expect(await locked).toEqual([['10000']]);
  await waiter.query('COMMIT');
  expect(await writer.value('EXECUTE twice(21)')).toBe('42');
  await listener.query('SELECT 1');
  expect(listener.notifications).toEqual(['news committed']);
  // New processes, one of a session and those of a parallel query, and everything to disk.
  using later = await session();
  expect(await later.value('SET debug_parallel_query = on; SELECT sum(n) FROM numbers')).toBe('50005000');
  await later.query('CHECKPOINT');
});

test('nginx: requests half sent, answers half received, a reload afterwards', async () => {
  const configuration = `daemon off; user root root; worker_processes 2; pid /tmp/pid; events {}
    http { access_log off; keepalive_timeout 600; server { listen 80; root /srv;
      location /who { return 200 "$pid $connection $connection_requests"; } location /status { stub_status; } } }`;
  const start = `mkdir -p /var/lib/nginx; echo '${configuration}' >/etc/nginx.conf; dd if=/dev/urandom of=/srv/large bs=1M count=16
    exec nginx -e stderr -c /etc/nginx.conf`;
  const pod = await run('nginx', ['sh', '-c', start]);
  const half = await open(pod, 80);
  half.write('GET /who HTTP/1.1\r\nHost: ');
  const large = await open(pod, 80);
  large.write('GET /large HTTP/1.0\r\n\r\n');
  using kept = await KeptAlive.open(pod, 80);
  const [worker = '', connection] = (await kept.get('/who')).split(' ');
  expect(await kept.get('/who')).toBe(`${worker} ${connection} 2`);
  const sum = (await inside(pod.container, 'sha256sum </srv/large')).split(' ')[0];
  const accepted = (status: string) => Number(/handled requests\s+(\d+)/.exec(status)?.[1]);
  const before = accepted(await kept.get('/status'));
  expect(before).toBe(3);
  expect(await warnings(pod)).toEqual([]);

  const container = await saveAndRestore(pod);

  expect(await kept.get('/who')).toBe(`${worker} ${connection} 4`);
  expect(accepted(await kept.get('/status'))).toBe(before);
  half.write('x\r\nConnection: close\r\n\r\n');
  expect(await text(half)).toMatch(/^HTTP\/1.1 200 OK.*\r\n\r\n\d+ \d+ 1$/s);
  const hash = createHash('sha256');
  let isBody = false;
  for await (const chunk of large as AsyncIterable<Buffer>) {
    const at = isBody ? 0 : chunk.indexOf('\r\n\r\n') + 4;
    hash.update(chunk.subarray(at));
    isBody = true;
  }
  expect(hash.digest('hex')).toBe(sum);
  const workers = () => inside(container, 'cat /proc/1/task/1/children');
  const old = await workers();
  expect(old.trim().split(' ')).toHaveLength(2);
  await inside(container, 'kill -HUP 1');
  for (let tries = 0; tries < 100 && (await workers()).includes(worker); tries++) await sleep(50);
  expect((await workers()).split(' ')).not.toContain(worker);
  using again = await KeptAlive.open(pod, 80);
  expect(old).not.toContain((await again.get('/who')).split(' ')[0]);
});

test('Node: a connection that is kept, an answer without an end, a timer, a thread and a child process', async () => {
  const command = ['node', '--input-type=module', '-e', await source('http-server.mjs')];
  // libuv asks for an io_uring, and goes without where the profile does not let it have one.
  const pod = await run('node', command, { isConfined: true });
  const raw = await open(pod, 8080);
  raw.write('GET /numbers HTTP/1.0\r\n\r\n');
  using numbers = new Lines(raw);
  while ((await numbers.next()).trim() !== '') {
    // Header.
  }
  for (let number = 1; number <= 20; number++) expect(await numbers.next()).toBe(String(number));
  using kept = await KeptAlive.open(pod, 8080);
  const ask = async () => JSON.parse(await kept.get('/'));
  expect(await ask()).toMatchObject({ requests: 1, ofConnection: 1, echo: '1' });
  const before = await ask();
  expect(await warnings(pod)).toEqual([]);

  await saveAndRestore(pod);

  const after = await ask();
  expect(after).toMatchObject({ requests: 3, ofConnection: 3, echo: '3', child: before.child });
  for (let number = 21; number <= 200; number++) expect(await numbers.next()).toBe(String(number));
  const later = await ask();
  for (const counter of ['thread', 'ticks']) {
    expect(after[counter], counter).toBeGreaterThanOrEqual(before[counter]);
    expect(later[counter], counter).toBeGreaterThan(after[counter]);
  }
});

test('Python: threads that count, one that waits, and one for each connection', async () => {
  interface Answer {
    asked: number;
    counters: { count: number; sum: number }[];
    done: string[];
    threads: number[];
  }
  const pod = await run('python', ['python3', '-c', await source('threads.py')]);
  using connection = await Lines.open(pod, 7000);
  const ask = async (line = '') => JSON.parse(await connection.ask(line)) as Answer;
  expect((await ask('one')).done).toEqual(['one']);
  const before = await ask();
  expect(before.threads).toHaveLength(7);
  expect(await warnings(pod)).toEqual([]);

  await saveAndRestore(pod);

  const after = await ask('two');
  expect(after).toMatchObject({ asked: 3, done: ['one', 'two'], threads: before.threads });
  await sleep(50);
  const later = await ask();
  for (const [index, { count, sum }] of later.counters.entries()) {
    expect(after.counters[index]?.count).toBeGreaterThanOrEqual(before.counters[index]?.count ?? 0);
    expect(count).toBeGreaterThan(after.counters[index]?.count ?? 0);
    expect(sum).toBe((count * (count + 1)) / 2);
  }
});

test('a pipeline: full pipes and a full connection, and no line is lost or comes twice', async () => {
  const count = 'i=0; while :; do i=$((i+1)); echo $i; done';
  const pad = `sed 's/$/ ${'0'.repeat(1000)}/'`;
  const pod = await run('pipeline', ['sh', '-c', `${count} | ${pad} | nc -l -p 7000`], { image: lab.images.busybox });
  using connection = await Lines.open(pod, 7000);
  let last = 0;
  const read = async (until: number) => {
    while (last < until) {
      expect(Number((await connection.next()).split(' ')[0])).toBe(last + 1);
      last++;
    }
  };
  await read(100);
  // Until everybody waits for the next in line, and that one for us.
  const { pid } = await cri.describe(pod.container);
  const used = () =>
    shell(`for child in $(cat /proc/${pid}/task/${pid}/children); do cut -d' ' -f14,15 /proc/$child/stat; done`);
  for (let before = ''; ; ) {
    const now = await used();
    if (now === before) break;
    before = now;
    await sleep(200);
  }
  expect(await warnings(pod)).toEqual([]);

  await saveAndRestore(pod);

  await read(30_000);
});

describe('a pod of two containers', () => {
  // What one number is turned into on its way through both containers stands in the client's file.
  async function ask(container: string, line: string): Promise<string> {
    await inside(container, `rm -f /out; echo ${line} >/in`);
    return inside(
      container,
      'tries=0; until [ -e /out ] || [ $tries = 100 ]; do sleep 0.05; tries=$((tries+1)); done; cat /out',
    );
  }

  test('has its segment, semaphores, queue, /dev/shm and connection back once, and together', async () => {
    const prelude = await source('prelude.pl');
    const perl = async (file: string) => ['perl', '-e', `${prelude}\n${await source(file)}`];
    const image = lab.images.tools;
    const pod = await run('pair', await perl('ipc-server.pl'), { image });
    const client = await addContainer(node.runtimeSocket, pod.sandbox, 'client', image, await perl('ipc-client.pl'));
    await inside(client, 'until [ -e /in ]; do sleep 0.05; done');
    expect(await ask(client, '3')).toBe('connection 3 segment 3 journal 3');
    expect(await ask(client, '4')).toBe('connection 7 segment 7 journal 3 4');
    await gantry(`checkpoint ${pod.sandbox} --archive ${FOLDER}/p.tar --tcp established`);
    await cri.removeSandbox(pod.sandbox);
    // The next sandbox gets the address of the one that is gone.
    const previous = pod.address.replace(/\d+$/, (number) => String(Number(number) - 1));
    await shell(`echo -n ${previous} >/var/lib/cni/networks/gantry/last_reserved_ip.0`);

    const { sandboxId, warnings: said } = await gantry(`restore ${FOLDER}/p.tar --new-sandbox pair-again`);

    expect(said).toEqual([]);
    const restored = (await cri.listContainers()).find(
      ({ podSandboxId, metadata }) => podSandboxId === sandboxId && metadata?.name === 'client',
    );
    expect(await ask(restored?.id ?? '', '5')).toBe('connection 12 segment 12 journal 3 4 5');
    expect(await ask(restored?.id ?? '', 'end')).toBe('kept once semaphore 5');
    const { pid } = await cri.describeSandbox(sandboxId);
    expect(
      await shell(
        `nsenter --ipc=/proc/${pid}/ns/ipc sh -c 'for f in shm sem msg; do sed 1d /proc/sysvipc/$f | wc -l; done'`,
      ),
    ).toBe('1\n1\n1');
  });
});
