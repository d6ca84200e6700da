import { execa } from 'execa';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { open, shut } from '../../src/network/shield.ts';
import { runInNetwork } from '../../src/runtime/program.ts';

/*
 * What a program inside a shut network sees: its datagrams go nowhere, as on a network that has lost its cable. An error, which
 * no network gives it, would end many a server.
 */

const NAME = 't-shield';
const OUTSIDE = 'tshield0';
const NETNS = `/run/netns/${NAME}`;
const ip = (...args: string[]) => execa('ip', args);

beforeAll(async () => {
  await down();
  await ip('netns', 'add', NAME);
  await ip('link', 'add', OUTSIDE, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', NAME);
  await ip('addr', 'add', '198.18.77.1/30', 'dev', OUTSIDE);
  await ip('link', 'set', OUTSIDE, 'up');
  await ip('-n', NAME, 'addr', 'add', '198.18.77.2/30', 'dev', 'eth0');
  await ip('-n', NAME, 'link', 'set', 'eth0', 'up');
});
afterAll(down);

async function down(): Promise<void> {
  await execa('ip', ['netns', 'del', NAME], { reject: false });
  await execa('ip', ['link', 'del', OUTSIDE], { reject: false });
}

/** Sends three datagrams from inside. @returns what sending them said, and how many have left */
async function send(): Promise<{ said: string; left: number }> {
  const script = `
    const socket = require('node:dgram').createSocket('udp4');
    const once = (left) => socket.send('x', 9, '198.18.77.1', (error) => {
      if (error) { console.log(error.code); return socket.close(); }
      if (left > 1) return once(left - 1);
      console.log('sent');
      socket.close();
    });
    once(3);`;
  const before = await packets();
  const said = await runInNetwork(NETNS, process.execPath, ['-e', script]);
  return { said, left: (await packets()) - before };
}

/** That have come out of it. */
async function packets(): Promise<number> {
  const { stdout } = await execa('ip', ['-s', '-j', 'link', 'show', 'dev', OUTSIDE]);
  return (JSON.parse(stdout) as { stats64: { rx: { packets: number } } }[])[0]?.stats64.rx.packets ?? 0;
}

test('datagrams of a shut pod go nowhere, without a word to who sends them', async () => {
  expect((await send()).left).toBeGreaterThanOrEqual(3);
  await shut(NETNS);
  expect(await send()).toEqual({ said: 'sent', left: 0 });
  await open(NETNS);
  expect((await send()).left).toBeGreaterThanOrEqual(3);
});
