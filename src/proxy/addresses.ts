import { isIP } from 'node:net';
import type { MovedAddresses } from '../network/moved.ts';
import { type CallHead, type Decision, type HeldCall, type Interceptor, PASS } from './intercept/interceptor.ts';
import { edit, filtered, lengthField, textIn } from './slots/edit.ts';
import { fieldsOf } from './wire.ts';

// Field numbers of runtime.v1; a test compares them with the upstream definition.
const STATUS_IN: Readonly<Record<string, number>> = { PodSandboxStatus: 1, GetContainerEvents: 4 };
const SANDBOX = 1; // of PodSandboxStatusRequest
const ID = 1; // of PodSandboxStatus
const NETWORK = 5;
const IP = 1; // of PodSandboxNetworkStatus
const ADDITIONAL_IPS = 2;
const POD_IP = 1; // of PodIP
/** What may be the beginning of a file's name, and no path. */
const HEX = /^[0-9a-f]+$/;

/** Shows the addresses that a sandbox has brought with it where the runtime tells those that CNI gave it. */
export class Addresses implements Interceptor {
  readonly name = 'addresses';
  readonly #moved: MovedAddresses;

  constructor(moved: MovedAddresses) {
    this.#moved = moved;
  }

  /** An event stream may last until a pod has come. */
  wants({ method }: CallHead): boolean {
    if (method === 'PodSandboxStatus') return this.#moved.sandboxes().length > 0;
    return method === 'GetContainerEvents';
  }

  decide(request: Uint8Array, { method }: HeldCall): Decision {
    // The runtime takes the beginning of an ID, too.
    const asked = textIn(request, SANDBOX);
    if (method === 'PodSandboxStatus' && !this.#moved.sandboxes().some((name) => name.startsWith(asked))) return PASS;
    const path = [STATUS_IN[method] ?? 0];
    return { kind: 'pass', rewriter: { message: (bytes) => edit(bytes, path, (status) => this.#shown(status)) } };
  }

  #shown(status: Uint8Array): Uint8Array {
    const id = textIn(status, ID);
    const moved = HEX.test(id) ? this.#moved.read(id) : undefined;
    return moved === undefined ? status : edit(status, [NETWORK], (network) => withAddresses(network, moved));
  }
}

/**
 * PodSandboxNetworkStatus with other addresses: first those of the family that the runtime has first, and of each family as
 * many as it has, one at least, as the pod may have added some itself. A network without any is none any more.
 */
function withAddresses(network: Uint8Array, moved: readonly string[]): Uint8Array {
  const primary = textIn(network, IP);
  if (primary === '') return network;
  const own = [primary, ...Array.from(fieldsOf(network, ADDITIONAL_IPS), (one) => textIn(one, POD_IP))];
  const first = isIP(primary);
  const shown = [first, first === 4 ? 6 : 4].flatMap((family) => {
    const ofFamily = (address: string) => isIP(address) === family;
    return moved.filter(ofFamily).slice(0, Math.max(1, own.filter(ofFamily).length));
  });
  const [ip = primary, ...others] = shown;
  return Buffer.concat([
    lengthField(IP, ip),
    ...others.map((one) => lengthField(ADDITIONAL_IPS, lengthField(POD_IP, one))),
    filtered(network, (number) => number !== IP && number !== ADDITIONAL_IPS),
  ]);
}
