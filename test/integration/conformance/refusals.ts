import { PodSandboxStatusRequest } from '../../../src/gen/cri.ts';
import { ID_FIELDS, METHODS } from '../../../src/proxy/methods.ts';
import { message } from '../../../src/proxy/relay.fixture.ts';

/** Requests that a method cannot carry out, with their framing, by what is wrong with them. */
export interface Refusal {
  readonly method: string;
  readonly path: string;
  readonly bodies: Readonly<Record<string, Buffer>>;
}

// Every request that names an object has its ID in its first field.
const unknownId = PodSandboxStatusRequest.encode({ podSandboxId: 'f'.repeat(64), verbose: false }).finish();

export const REFUSALS: readonly Refusal[] = Object.entries(METHODS).map(([method, { service, kind }]) => ({
  method,
  path: `/runtime.v1.${service}/${method}`,
  bodies: {
    // To other methods it is a good request, which the script makes.
    ...(takesId(method) || kind === 'change' ? { 'an empty request': message('') } : {}),
    ...(takesId(method) ? { 'an unknown ID': message(Buffer.from(unknownId)) } : {}),
    'a request that cannot be decoded': message(Buffer.from([0x0a, 0x7f, 0xff])),
    'a request that is cut off': message('cut off').subarray(0, -1),
    'no request': Buffer.alloc(0),
  },
}));

function takesId(method: string): boolean {
  return `${method}Request.pod_sandbox_id` in ID_FIELDS || `${method}Request.container_id` in ID_FIELDS;
}
