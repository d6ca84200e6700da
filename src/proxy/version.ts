import { VersionAnswer } from '../gen/cri/decoded.ts';
import { type Codec, hook } from './intercept/hook.ts';
import type { Interceptor } from './intercept/interceptor.ts';
import type { RuntimeApi } from './runtime-api.ts';

const AS_BYTES: Codec<Uint8Array> = { decode: (bytes) => bytes, encode: (bytes) => ({ finish: () => bytes }) };

/**
 * A runtime of v1alpha2 says so in its `Version`. To those who speak to the relay it is one of v1, which is what they
 * use (VersionResponse.runtime_api_version: "API version of the container runtime").
 *
 * @param speaks undefined as long as the runtime has not been asked
 */
export function versionAsV1(speaks: () => RuntimeApi | undefined): Interceptor {
  return hook({
    name: 'version',
    method: 'Version',
    request: AS_BYTES,
    answer: VersionAnswer,
    active: () => speaks() !== 'v1',
    decide: () => ({
      kind: 'pass',
      rewriter: {
        message: (answer) =>
          answer.runtimeApiVersion === 'v1alpha2' ? { ...answer, runtimeApiVersion: 'v1' } : answer,
      },
    }),
  });
}
