import { expect, test } from 'vitest';
import { routeOf } from './routes.ts';

test.each([
  '/runtime.v1.RuntimeService/Version',
  '/runtime.v1.ImageService/ListImages',
  '/runtime.v1.RuntimeService/FromTheFuture',
])('%s is relayed', (path) => {
  const [, service, method] = path.split('/');
  expect(routeOf(path)).toEqual({ kind: 'relay', service, method });
});

test.each([
  '/containerd.services.version.v1.Version/Version',
  '/containerd.services.tasks.v1.Tasks/Delete',
  '/runtime.v1alpha2.RuntimeService/Version',
  '/runtime.v1.RuntimeServiceX/Version',
  '/runtime.v1.RuntimeService/../containerd.services.tasks.v1.Tasks/Delete',
  '//runtime.v1.RuntimeService/Version',
  'runtime.v1.RuntimeService/Version',
  '/runtime.v1.RuntimeService/',
  '/RUNTIME.V1.RuntimeService/Version',
  '/',
  '',
])('"%s" is refused, and the message names it', (path) => {
  expect(routeOf(path)).toMatchObject({ kind: 'refuse', message: expect.stringContaining(path) });
});

test('a method of the own services is served, by its whole path, and never in place of the runtime', () => {
  async function* nothing(): AsyncIterable<Uint8Array> {
    yield new Uint8Array();
  }
  const own = new Map([
    ['/gantry.v1.Relay/Trace', nothing],
    ['/runtime.v1.RuntimeService/Version', nothing],
  ]);
  expect(routeOf('/gantry.v1.Relay/Trace', own)).toEqual({ kind: 'serve', method: nothing });
  expect(routeOf('/gantry.v1.Relay/Other', own)).toMatchObject({ kind: 'refuse' });
  expect(routeOf('/runtime.v1.RuntimeService/Version', own)).toMatchObject({ kind: 'relay' });
});
