import { expect, test } from 'vitest';
import { Routes } from './routes.ts';

const routes = new Routes();

test.each([
  '/runtime.v1.RuntimeService/Version',
  '/runtime.v1.ImageService/ListImages',
  '/runtime.v1.RuntimeService/FromTheFuture',
])('%s is relayed', (path) => {
  const [, service = '', method] = path.split('/');
  expect(routes.of(path)).toEqual({ kind: 'relay', service: service.split('.').at(-1), method });
  expect(routes.of(path)).toBe(routes.of(path));
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
  expect(routes.of(path)).toMatchObject({ kind: 'refuse', message: expect.stringContaining(path) });
});

test('a method of the own services is served, by its whole path, and never in place of the runtime', () => {
  async function* nothing(): AsyncIterable<Uint8Array> {
    yield new Uint8Array();
  }
  const own = new Routes(
    new Map([
      ['/gantry.v1.Relay/Trace', nothing],
      ['/runtime.v1.RuntimeService/Version', nothing],
    ]),
  );
  expect(own.of('/gantry.v1.Relay/Trace')).toEqual({ kind: 'serve', method: nothing });
  expect(own.of('/gantry.v1.Relay/Other')).toMatchObject({ kind: 'refuse' });
  expect(own.of('/runtime.v1.RuntimeService/Version')).toMatchObject({ kind: 'relay' });
});

test('a client that makes up methods does not fill the memory, and is relayed all the same', () => {
  const many = new Routes();
  for (let i = 0; i < 1000; i += 1) many.of(`/runtime.v1.RuntimeService/Method${i}`);
  expect(many.of('/runtime.v1.RuntimeService/Late')).toEqual({
    kind: 'relay',
    service: 'RuntimeService',
    method: 'Late',
  });
});
