import type { ServerHttp2Stream } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { ContainerStatus, ContainerStatusRequest, ContainerStatusResponse } from '../../gen/cri.ts';
import { Slot } from '../../gen/gantry/v1/slots.ts';
import { silentLog } from '../../log.ts';
import { Bench, message } from '../relay.fixture.ts';
import { SlotTable } from './table.ts';
import { Virtual } from './virtual.ts';

const VIRTUAL = 'a'.repeat(64);
const REAL = 'b'.repeat(64);
const GRPC = { ':status': 200, 'content-type': 'application/grpc' };
const text = (bytes: Uint8Array | undefined) => Buffer.from(bytes ?? []).toString('latin1');
const face = (id: string) =>
  ContainerStatus.encode(ContainerStatus.fromPartial({ id, state: 1, imageRef: 'an image' })).finish();

function answer(stream: ServerHttp2Stream, ...messages: Uint8Array[]): void {
  stream.respond(GRPC, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  for (const one of messages) stream.write(message(Buffer.from(one)));
  stream.end();
}

async function withSlot(bench: Bench, fields: Partial<Slot> = {}): Promise<SlotTable> {
  const table = await SlotTable.open(`${bench.folder}/slots`, silentLog);
  await table.put(
    Slot.fromPartial({ id: VIRTUAL, sandboxId: 'S', occupant: REAL, face: Buffer.from(face(VIRTUAL)), ...fields }),
  );
  return table;
}

test.each(['v1', 'v1alpha2'] as const)(
  'a call of v1 about a slot reaches its occupant in a runtime of %s',
  async (version) => {
    await using bench = await Bench.make();
    const seen: string[] = [];
    await bench.rawServer((stream, headers) => {
      const chunks: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('end', () => {
        seen.push(`${headers[':path']} ${text(Buffer.concat(chunks))}`);
        answer(stream, Buffer.concat([Buffer.from([0x0a, face(REAL).length]), face(REAL)]));
      });
    });
    await bench.relay({ runtimeApi: version, interceptors: [new Virtual(await withSlot(bench))] });
    const request = ContainerStatusRequest.encode({ containerId: VIRTUAL, verbose: false }).finish();
    const got = await bench
      .rawClient()
      .call('/runtime.v1.RuntimeService/ContainerStatus', [], message(Buffer.from(request)));
    const own = seen.filter((line) => line.includes('ContainerStatus'));
    expect(own).toEqual([expect.stringContaining(`/runtime.${version}.RuntimeService/ContainerStatus`)]);
    expect([own[0]?.includes(REAL), own[0]?.includes(VIRTUAL)]).toEqual([true, false]);
    expect(ContainerStatusResponse.decode(got.body.subarray(5)).status).toMatchObject({
      id: VIRTUAL,
      imageRef: 'an image',
    });
  },
);

test('a stream of lists ends with the slots that were in none of them, also when there was none', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.resume();
    answer(stream);
  });
  await bench.relay({ interceptors: [new Virtual(await withSlot(bench, { occupant: '' }))] });
  const { body, trailers } = await bench
    .rawClient()
    .call('/runtime.v1.RuntimeService/StreamContainers', [], message(''));
  expect([text(body).includes(VIRTUAL), trailers?.['grpc-status']]).toEqual([true, '0']);
});

test('a list that fails is no list of slots', async () => {
  await using bench = await Bench.make();
  await bench.rawServer((stream) => {
    stream.resume();
    stream.respond({ ...GRPC, 'grpc-status': '2', 'grpc-message': 'broken' }, { endStream: true });
  });
  await bench.relay({ interceptors: [new Virtual(await withSlot(bench, { occupant: '' }))] });
  const { body, headers } = await bench
    .rawClient()
    .call('/runtime.v1.RuntimeService/StreamContainers', [], message(''));
  expect([body.length, headers?.['grpc-status']]).toEqual([0, '2']);
});

test('calls that read and were passed on before are waited for; those that change something are not', async () => {
  await using bench = await Bench.make();
  const streams = new Map<string, ServerHttp2Stream>();
  await bench.rawServer((stream, headers) => {
    stream.resume();
    streams.set(headers[':path'] ?? '', stream);
  });
  const relay = await bench.relay();
  const client = bench.rawClient();
  const path = (method: string) => `/runtime.v1.RuntimeService/${method}`;
  const calls = ['ListContainers', 'StopContainer', 'GetContainerEvents'].map((method) =>
    client.call(path(method)).catch(() => undefined),
  );
  for (let round = 0; round < 200 && streams.size < 3; round++) await delay(5);
  let isOver = false;
  const over = relay.readsOver(AbortSignal.timeout(5000)).then(() => {
    isOver = true;
  });
  await delay(100);
  expect(isOver).toBe(false);
  answer(streams.get(path('ListContainers')) as ServerHttp2Stream);
  await over;
  expect(isOver).toBe(true);
  await expect(relay.readsOver(AbortSignal.timeout(100))).resolves.toBeUndefined();
  for (const name of ['StopContainer', 'GetContainerEvents']) answer(streams.get(path(name)) as ServerHttp2Stream);
  await Promise.all(calls);
});
