import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { logTo } from '../log.ts';
import { notifier } from './notify.ts';

// Receives datagrams as the service manager does; Node can not.
const RECEIVER = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("ready", flush=True)
while True: print(s.recv(4096).decode(), flush=True)`;

const works = (file: string, ...args: string[]) => spawnSync(file, args, { stdio: 'ignore' }).status === 0;
const canReceive = works('systemd-notify', '--version') && works('python3', '-c', 'import socket');

if (!canReceive) console.warn('skipped: the test with the real systemd-notify, which needs that program and python3');

let folder: string;
let events: { event: string }[];
const log = () => logTo({ write: (line: string) => void events.push(JSON.parse(line)) });

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gantry-notify-'));
  events = [];
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

test.runIf(canReceive)('the service manager receives what is told, by the real systemd-notify', async () => {
  const socket = join(folder, 'notify');
  const receiver = spawn('python3', ['-c', RECEIVER, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void receiver.kill('SIGKILL'));
  let received = '';
  receiver.stdout.on('data', (chunk) => {
    received += chunk;
  });
  await once(receiver.stdout, 'data');
  const notify = notifier(log(), { NOTIFY_SOCKET: socket });
  await notify('READY=1', 'STATUS=Relaying a to b');
  await notify('WATCHDOG=1');
  await notify('STOPPING=1');
  await vi.waitFor(() => {
    for (const line of ['READY=1', 'STATUS=Relaying a to b', 'WATCHDOG=1', 'STOPPING=1']) {
      expect(received.split('\n')).toContain(line);
    }
  });
  expect(events).toEqual([]);
});

test('the program is given the assignments and the socket', async () => {
  const told = join(folder, 'told');
  const program = join(folder, 'systemd-notify');
  await writeFile(program, `#!/bin/sh\nprintf '%s|' "$NOTIFY_SOCKET" "$@" >>${told}\n`);
  await chmod(program, 0o755);
  vi.stubEnv('PATH', `${folder}:${process.env.PATH}`);
  await notifier(log(), { NOTIFY_SOCKET: '/run/n' })('READY=1', 'STATUS=two words');
  expect(await readFile(told, 'utf8')).toBe('/run/n|READY=1|STATUS=two words|');
});

test('without the program nothing fails, and the log says so once', async () => {
  vi.stubEnv('PATH', folder);
  const notify = notifier(log(), { NOTIFY_SOCKET: join(folder, 'nobody') });
  await notify('READY=1');
  await notify('WATCHDOG=1');
  expect(events).toEqual([
    expect.objectContaining({ event: 'notify-failed', level: 'warn', assignments: ['READY=1'] }),
  ]);
});

test('without a service manager nothing is told', async () => {
  vi.stubEnv('PATH', folder);
  await notifier(log(), {})('READY=1');
  expect(events).toEqual([]);
});
