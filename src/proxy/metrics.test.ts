import { mkdtemp, rm, stat } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, onTestFinished, test } from 'vitest';
import { RelayMetrics } from './metrics.ts';
import { serveMetrics } from './metrics-server.ts';
import { Recorder } from './recorder.ts';

const LIST = '/runtime.v1.RuntimeService/ListContainers';

async function linesOf(metrics: RelayMetrics): Promise<string[]> {
  return (await metrics.registry.metrics()).split('\n');
}

test('calls are counted by method, status and mode, and timed in the relay and at the runtime', async () => {
  const metrics = new RelayMetrics();
  const recorder = new Recorder([metrics]);
  for (const code of [0, 0, 5]) {
    const call = recorder.callStarted(LIST, 'piped');
    call.forwarding();
    call.answered();
    call.ended(code);
  }
  recorder.callStarted('/x.Y/Z', 'refused').ended(12);
  recorder.callStarted(LIST, 'intercepted').ended(4711);
  const lines = await linesOf(metrics);
  expect(lines).toContain('# TYPE gantry_cri_calls_total counter');
  expect(lines.filter((line) => line.startsWith('gantry_cri_calls_total'))).toEqual([
    'gantry_cri_calls_total{method="ListContainers",code="OK",mode="piped"} 2',
    'gantry_cri_calls_total{method="ListContainers",code="NOT_FOUND",mode="piped"} 1',
    'gantry_cri_calls_total{method="ListContainers",code="other",mode="intercepted"} 1',
    'gantry_cri_calls_total{method="x.Y/Z",code="UNIMPLEMENTED",mode="refused"} 1',
  ]);
  expect(lines).toContain('# TYPE gantry_cri_call_seconds histogram');
  for (const part of ['own', 'upstream']) {
    expect(lines).toContain(`gantry_cri_call_seconds_count{method="ListContainers",part="${part}"} 4`);
    expect(lines).toContain(`gantry_cri_call_seconds_bucket{le="+Inf",method="ListContainers",part="${part}"} 4`);
  }
  expect(lines.join('\n')).not.toContain('part="own",method="x.Y/Z"');
  expect(lines.some((line) => line.startsWith('process_cpu_seconds_total'))).toBe(true);
  // A second look counts nothing twice.
  expect((await linesOf(metrics)).filter((line) => line.startsWith('gantry_'))).toEqual(
    lines.filter((line) => line.startsWith('gantry_')),
  );
});

test('buckets are cumulative, and their sum is in seconds', async () => {
  const metrics = new RelayMetrics();
  const method = { label: 'Version', kind: 'read' as const };
  const end = (ownMs: number) => {
    const call = { mode: 'piped' as const, startedAt: 0, endedAt: ownMs, upstreamMs: 0, code: 0, message: '' };
    const untold = { countsBytes: false, bytesUp: 0, bytesDown: 0, subject: undefined };
    metrics.callEnded({ ...call, method, ownMs, ...untold });
  };
  for (const ms of [0.1, 0.2, 400_000]) end(ms);
  const lines = await linesOf(metrics);
  const bucket = (le: string) => `gantry_cri_call_seconds_bucket{le="${le}",method="Version",part="own"}`;
  expect(lines).toContain(`${bucket('0.0001')} 1`);
  expect(lines).toContain(`${bucket('0.00025')} 2`);
  expect(lines).toContain(`${bucket('300')} 2`);
  expect(lines).toContain(`${bucket('+Inf')} 3`);
  expect(lines).toContain('gantry_cri_call_seconds_sum{method="Version",part="own"} 400.0003');
});

test('what is open and what came again', async () => {
  const metrics = new RelayMetrics();
  const recorder = new Recorder([metrics]);
  expect(await linesOf(metrics)).toContain('gantry_upstream_reconnects_total 0');
  const call = recorder.callStarted(LIST, 'piped');
  recorder.connectionOpened();
  recorder.connectionOpened();
  recorder.connectionClosed();
  for (let i = 0; i < 3; i += 1) recorder.upstreamConnected(async () => undefined);
  expect(await linesOf(metrics)).toEqual(
    expect.arrayContaining([
      'gantry_open_streams 1',
      'gantry_downstream_connections 1',
      'gantry_upstream_reconnects_total 2',
    ]),
  );
  call.ended(0);
  expect(await linesOf(metrics)).toContain('gantry_open_streams 0');
});

test('on a unix socket they are for its owner only, and the socket goes at the end', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'gantry-metrics-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const path = join(folder, 'metrics.sock');
  {
    await using server = await serveMetrics(new RelayMetrics().registry, { path });
    expect(server.address).toBe(`unix:${path}`);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    const body = await new Promise<string>((resolve, reject) => {
      request({ socketPath: path, path: '/metrics' }, (response) => resolve(text(response)))
        .on('error', reject)
        .end();
    });
    expect(body).toContain('gantry_open_streams 0');
  }
  await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' });
});
