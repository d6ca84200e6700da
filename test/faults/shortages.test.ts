import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, test } from 'vitest';
import type { Reason } from '../../src/errors.ts';
import { ImageServiceService, RemoveImageRequest } from '../../src/gen/cri.ts';
import { connectSocket, unary } from '../../src/runtime/grpc.ts';
import type { Pod } from '../pods.ts';
import { expectReason, type Served, until, World } from './world.ts';

let world: World;
let pod: Pod;
let served: Served;

beforeAll(async () => {
  world = await World.up('t-shortages');
  const first = await world.serveRedis({ mebibytes: 24 });
  await first.counter.stop();
  pod = first.pod;
});
afterAll(() => world?.down());

beforeEach(async () => {
  served = await world.connect(pod);
});
afterEach(() => served?.counter.stop(0));

/** The Redis of this file runs on a with its connection, and nothing else is anywhere. */
async function expectUntouched(): Promise<void> {
  await served.expectAlive('a');
  await world.expectNothingLeft();
}

async function migrateFails(reason: Reason, ...says: (string | RegExp)[]): Promise<void> {
  expectReason(await world.gantry(world.a, 'migrate', pod.container, '--to', 'b'), reason, ...says);
}

describe('what a node lacks', () => {
  test.each(['a', 'b'] as const)('CRIU on node %s', async (name) => {
    {
      await using _ = await world.withoutCriu(world[name]);
      await migrateFails('CRIU_MISSING', /CRIU/, name === 'b' ? 'on node b' : /./);
    }
    await expectUntouched();
  });

  test("the container's image on the peer", async () => {
    const client = connectSocket(world.b.runtimeSocket);
    const request = RemoveImageRequest.fromPartial({ image: { image: world.images.redis } });
    await unary(client, ImageServiceService.removeImage, request, { timeoutMs: 10_000 });
    client.close();
    try {
      await migrateFails('IMAGE_MISSING', 'node b', world.images.redis);
    } finally {
      const archive = `/opt/gantry/.lab/images/${world.suite}/redis.tar`;
      await world.exec(world.b, 'ctr', '-n', 'k8s.io', 'images', 'import', archive);
    }
    await expectUntouched();
  });

  test.each(['a', 'b'] as const)('containerd on node %s', async (name) => {
    {
      await using _ = await world.without(world[name], 'containerd');
      await migrateFails('RUNTIME_UNAVAILABLE', name === 'b' ? 'on node b' : /containers/);
    }
    await expectUntouched();
  });

  test('a containerd that answers', async () => {
    {
      using _ = await world.halted(world.a, 'containerd');
      await migrateFails('RUNTIME_UNAVAILABLE', /listing containers/);
    }
    await expectUntouched();
  });

  test('the OCI hook on the peer: what would start afresh there is removed again', async () => {
    {
      const hook = '/usr/local/lib/gantry/gantry-runc';
      await using _ = await world.during(
        world.b,
        `mv ${hook} /run/hook && ln -s /usr/sbin/runc ${hook}`,
        `mv /run/hook ${hook}`,
      );
      await migrateFails('RESTORE_FAILED', 'on node b', /afresh/);
    }
    await expectUntouched();
  });

  test.each([
    ['a', 'CHECKPOINT_FAILED'],
    ['b', 'RESTORE_FAILED'],
  ] as const)('a CRIU that works on node %s', async (name, reason) => {
    {
      const fake = '#!/bin/sh\\n[ "$1" = --version ] && echo Version: 4.2 && exit\\nexit 1\\n';
      await using _ = await world.during(
        world[name],
        `printf '${fake}' >/run/fake && chmod +x /run/fake && mount --bind /run/fake /usr/sbin/criu`,
        'umount /usr/sbin/criu; rm /run/fake',
      );
      await migrateFails(reason, name === 'b' ? 'on node b' : pod.container, /criu/i);
    }
    await expectUntouched();
  });

  test('an agent on this node', async () => {
    {
      await using _ = await world.without(world.a, 'agent');
      await migrateFails('AGENT_UNAVAILABLE', 'agent.sock');
    }
    await expectUntouched();
  });
});

describe('space for the memory images', () => {
  test.each(['a', 'b'] as const)('is too small on node %s from the beginning', async (name) => {
    {
      await using _ = await world.smallFolder(world[name], '/run/gantry/images', 4);
      await migrateFails('NO_SPACE', '/run/gantry/images', /4 MiB free/, name === 'b' ? 'on node b' : /./);
    }
    await expectUntouched();
  });

  test.each(['a', 'b'] as const)('fills up on node %s in the middle', async (name) => {
    const node = world[name];
    {
      await using _ = await world.smallFolder(node, '/run/gantry/images', 96);
      const migration = world.begin(world.a, 'migrate', pod.container, '--to', 'b');
      await migration.reached('placeholder');
      await world.shell(node, 'fallocate -l 88m /run/gantry/images/filler');
      expectReason(await migration.ended, 'NO_SPACE', /No space left|space/);
    }
    await expectUntouched();
  });
});

describe('space for the journal', () => {
  const journal = '/var/lib/gantry/migrations';

  /** Room for one entry and for none beside it; `fill` takes that too. */
  const small = (name: 'a' | 'b') =>
    world.during(world[name], `mount -t tmpfs -o size=8k,mode=700 small ${journal}`, `umount ${journal}`);
  const fill = (name: 'a' | 'b') => world.shell(world[name], `head -c 8192 /dev/zero >${journal}/filler || true`);

  test.each(['a', 'b'] as const)('is not there on node %s from the beginning', async (name) => {
    {
      await using _ = await small(name);
      await fill(name);
      await migrateFails('NO_SPACE', /ENOSPC/, name === 'b' ? 'on node b' : /./);
    }
    await expectUntouched();
  });

  test.each([
    ['a', 'freeze', 'the commit'],
    ['b', 'dump', 'the resume'],
  ] as const)('is gone on node %s after "%s": %s cannot be written', async (name, phase, _) => {
    {
      await using _small = await small(name);
      const command = world.begin(world.a, 'migrate', pod.container, '--to', 'b');
      await command.reached(phase);
      await fill(name);
      expectReason(await command.ended, 'NO_SPACE', /ENOSPC/, name === 'b' ? 'on node b' : /./);
      await served.answers();
    }
    await expectUntouched();
  });

  test('is gone on node b while it resumes: it goes on here as soon as node b can say that it has failed', async () => {
    {
      await using _small = await small('b');
      const command = world.begin(world.a, 'migrate', pod.container, '--to', 'b', '--verify-exec', 'sleep 1');
      await command.reached('commit');
      const written = () => world.shell(world.b, `cat ${journal}/*.json`);
      await until('it is resuming', async () => (await written()).stdout.includes('"resuming"'));
      await fill('b');
      const log = () => readFile(join(world.b.logs, 'agent.log'), 'utf8');
      await until('it cannot say so', async () => (await log()).includes('"what":"write failed"'));
      await world.shell(world.b, `rm ${journal}/filler`);
      expectReason(await command.ended, 'NO_SPACE', /ENOSPC/, 'on node b');
    }
    await expectUntouched();
  });
});
