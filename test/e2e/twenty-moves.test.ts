import { afterAll, beforeAll, expect, test } from 'vitest';
import { type LabEnvironment, labDown, labUp } from '../lab.ts';
import { digest, RedisConnection } from '../redis.ts';
import { execIn, RedisScenario, runningOn } from '../scenario.ts';
import { leftoversOn } from './leftovers.ts';

/*
 * The same pod, a to b to c to a and so on, twenty times: what a move loses or leaves behind adds up. Each node that it comes to
 * again still keeps its state of the last time.
 */

const NAME = 't-twenty';
const MOVES = 20;
const MEBIBYTES = 8;

let lab: LabEnvironment;
let redis: RedisScenario;

beforeAll(async () => {
  lab = await labUp({ name: NAME, nodes: 3 });
  redis = await RedisScenario.start(lab);
  await redis.fill(MEBIBYTES);
  // Files of every kind that a writable layer has: new ones, changed ones, deleted ones, links, holes.
  await inside(`mkdir -p /new/deep && head -c 1000000 /dev/urandom > /new/deep/random && ln /new/deep/random /new/link
    ln -s deep/random /new/symbolic && truncate -s 5M /new/hole && echo end >> /new/hole && echo more >> /etc/hostname.own
    rm -rf /usr/share/doc`);
  await redis.connect();
});
afterAll(() => labDown(NAME));

const inside = (script: string) => execIn(redis.node.runtimeSocket, redis.container, ['sh', '-ec', script]);

/** All that the pod is made of and that must not change. */
async function state() {
  using connection = await RedisConnection.open(redis.pod.address);
  const runId = /run_id:(\w+)/.exec(String(await connection.send('INFO', 'server')))?.[1];
  const files = await inside(
    'find /new -type f -exec sha256sum {} + | sort; stat -c "%n %s %b %h %N" /new/* /new/deep/*; ls -d /usr/share/doc 2>&1 | wc -c; hostname',
  );
  return { runId, digest: await digest(connection), files };
}

test('twenty moves over three nodes change neither memory nor files, and its connection stays', async () => {
  const before = await state();
  const nodes = ['b', 'c', 'a'];
  for (let move = 0; move < MOVES; move++) {
    const to = nodes[move % nodes.length] as string;
    const { migration } = await redis.move(to);
    expect(migration).toMatchObject({ mode: 'stop-and-copy', node: to, addresses: [redis.pod.address] });
    expect(await runningOn(lab, 'redis')).toEqual([to]);
    expect(await state(), `after move ${move + 1}, to ${to}`).toEqual(before);
  }
  const { requests, digestBefore, digestAfter, ...trouble } = await redis.finish();
  expect(trouble).toEqual({ lost: 0, repeated: 0, reconnects: 0 });
  expect(requests).toBeGreaterThan(MOVES * 100);
  expect(digestAfter).toBe(digestBefore);
  for (const node of lab.nodes) expect(await leftoversOn(lab, node)).toEqual([]);
});
