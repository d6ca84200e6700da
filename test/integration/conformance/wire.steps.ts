import { gzipSync } from 'node:zlib';
import { RuntimeServiceService as Runtime } from '../../../src/gen/cri.ts';
import { message } from '../../../src/proxy/relay.fixture.ts';
import { one } from './step.ts';

const unknown = (service: string) => ({ ...Runtime.version, path: `/runtime.v1.${service}/NoSuchMethod` });
const version = () => ({ version: '' });
const largeVersion = () => ({ version: 'x'.repeat(4 * 1024 * 1024) });
const GZIP = ['grpc-encoding', 'gzip'];

/** How messages travel, whatever is in them. */
export const wireSteps = [
  one('a method of the RuntimeService that nobody knows', unknown('RuntimeService'), version, { status: 12 }),
  one('a method of the ImageService that nobody knows', unknown('ImageService'), version, { status: 12 }),
  // containerd 1.6 has no gzip.
  one('a compressed request', Runtime.version, version, {
    headers: GZIP,
    body: (request) => message(gzipSync(request), 1),
    status: 'any',
    sameBytes: true,
  }),
  one('a request that is said to be compressed and is not', Runtime.version, version, {
    headers: GZIP,
    body: (request) => message(request, 1),
    status: 'failure',
    sameBytes: true,
  }),
  one('a request in an encoding that nobody knows', Runtime.version, version, {
    headers: ['grpc-encoding', 'none-such'],
    body: (request) => message(request, 1),
    status: 12,
    sameBytes: true,
  }),
  one('a request whose answer may be compressed', Runtime.version, version, {
    headers: ['grpc-accept-encoding', 'gzip,identity'],
    sameBytes: true,
  }),
  one('a request with metadata, binary and repeated', Runtime.version, version, {
    headers: ['x-twin', 'A', 'x-twin', 'B', 'x-twin-bin', 'AAEC/w'],
    sameBytes: true,
  }),
  one('two requests to a method that takes one', Runtime.version, version, {
    body: (request) => Buffer.concat([message(request), message(request)]),
    status: 'any',
    sameBytes: true,
  }),
  one('a large request', Runtime.version, largeVersion, { sameBytes: true }),
  one('a request larger than the runtime takes', Runtime.version, version, { body: tooLarge, status: 8 }),
  one('a deadline that is no time', Runtime.version, version, {
    headers: ['grpc-timeout', 'soon'],
    status: 'failure',
    sameBytes: true,
  }),
];

/** Only its head: containerd takes 16 MiB, and does not wait for more. */
function tooLarge(): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(17 * 1024 * 1024, 1);
  return head;
}
