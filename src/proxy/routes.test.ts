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
