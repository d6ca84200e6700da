import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { GantryError } from '../errors.ts';
import { DEFAULTS, effectiveConfig, FLAGS, type Flags, readProxyConfig } from './config.ts';
import { metricsAddress } from './metrics-address.ts';

function mistakes(text: string, flags: Flags = {}): string[] {
  try {
    effectiveConfig(text, 'c.yaml', flags);
  } catch (error) {
    expect(GantryError.from(error)).toMatchObject({ reason: 'USAGE', exitCode: 2 });
    return GantryError.from(error).message.split('\n');
  }
  return [];
}

test.each(['', '# nothing yet\n', 'proxy:\n', 'proxy: {}\n'])('a file with %j leaves the defaults', (text) => {
  expect(effectiveConfig(text, 'c.yaml', {}).values).toEqual(DEFAULTS);
});

test('flags win over the file, the file over the defaults, and each value tells where it is from', () => {
  const text = 'proxy:\n  listen: /run/a.sock\n  upstreamWaitMs: 20\n  logLevel: debug\n';
  const { values, origins } = effectiveConfig(text, 'c.yaml', { upstreamWaitMs: '30', metrics: '127.0.0.1:9100' });
  expect(values).toEqual({
    ...DEFAULTS,
    listen: '/run/a.sock',
    upstreamWaitMs: 30,
    metrics: '127.0.0.1:9100',
    logLevel: 'debug',
  });
  expect(origins).toMatchObject({
    listen: 'c.yaml:2',
    upstreamWaitMs: '--upstream-wait',
    metrics: '--metrics',
    logLevel: 'c.yaml:4',
    upstream: 'default',
  });
});

test('every mistake is named at once, with file, line, column and field, those of flags too', () => {
  const text = [
    'proxy:',
    '  lisen: /run/a.sock',
    '  upstream: 7',
    '  upstreamWaitMs: 1.5',
    '  metrics: 0.0.0.0:9100',
    '  logLevel: loud',
    'agent: {}',
    '',
  ].join('\n');
  expect(mistakes(text, { drainTimeoutMs: '5s', runtimeApi: 'v2' })).toEqual([
    'c.yaml:2:3: proxy.lisen is not known',
    'c.yaml:3:3: proxy.upstream must be a path',
    'c.yaml:4:3: proxy.upstreamWaitMs must be whole milliseconds from 0 to 3600000 (an hour)',
    'c.yaml:5:3: proxy.metrics must be HOST:PORT with a loopback address (127.0.0.1, [::1], localhost), or unix:PATH',
    'c.yaml:6:3: proxy.logLevel must be one of trace, debug, info, warn, error',
    'c.yaml:7:1: agent is not known',
    '--drain-timeout must be whole milliseconds from 0 to 3600000 (an hour)',
    '--runtime-api must be one of auto, v1, v1alpha2',
  ]);
});

test.each([
  ['proxy:\n  listen: "/run\n', /^c\.yaml:\d+:\d+: Missing closing "quote/],
  ['proxy:\n\tlisten: /x\n', /^c\.yaml:2:1: /],
  ['proxy:\n  listen: /a\n  listen: /b\n', /^c\.yaml:3:3: .*unique/],
  ['- listen: /a\n', /^c\.yaml:1:1: must be a map with the key "proxy"$/],
  ['proxy: /run/a.sock\n', /^c\.yaml:1:1: proxy /],
  ['proxy:\n  upstreamWaitMs: 3600001\n', /^c\.yaml:2:3: proxy\.upstreamWaitMs must be/],
])('%j is refused', (text, problem) => {
  const [first = '', ...others] = mistakes(text);
  expect(first).toMatch(problem);
  expect(others).toEqual([]);
});

test("the runtime's own socket is no place to listen on, however it is written", () => {
  expect(mistakes('proxy: { listen: /run/x/../c.sock }', { upstream: '/run/c.sock' })).toEqual([
    "listen is the runtime's own socket /run/c.sock",
  ]);
});

test('every setting has a flag', () => {
  expect(Object.keys(FLAGS)).toEqual(Object.keys(DEFAULTS));
});

describe('readProxyConfig', () => {
  test('a file that was asked for must exist, and is the one that is read', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'gantry-config-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const file = join(folder, 'c.yaml');
    await expect(readProxyConfig(file, {})).rejects.toMatchObject({
      reason: 'USAGE',
      message: expect.stringContaining(file),
    });
    await writeFile(file, 'proxy: { logLevel: warn }');
    expect((await readProxyConfig(file, {})).values.logLevel).toBe('warn');
  });
});

describe('metrics are served to this machine only', () => {
  test.each([
    ['127.0.0.1:9100', { host: '127.0.0.1', port: 9100 }],
    ['127.8.0.1:0', { host: '127.8.0.1', port: 0 }],
    ['[::1]:9100', { host: '::1', port: 9100 }],
    ['localhost:9100', { host: '127.0.0.1', port: 9100 }],
    ['unix:/run/gantry/metrics.sock', { path: '/run/gantry/metrics.sock' }],
  ])('%s', (text, address) => expect(metricsAddress(text)).toEqual(address));

  test.each(['0.0.0.0:1', '[::]:1', '10.0.0.1:1', ':9100', '9100', '127.0.0.1', '127.0.0.1:70000', 'unix:', 'unix:x'])(
    'not %s',
    (text) => expect(metricsAddress(text)).toBeUndefined(),
  );
});
