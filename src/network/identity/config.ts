import { isIP } from 'node:net';

/** Which provider an agent uses; `identity` of its configuration (docs/identity.md). */
export type IdentityConfig =
  | { provider: 'l2' }
  /** `nextHops`: addresses that routes to a peer lead to, one of a family; without one it is the peer's own. */
  | { provider: 'route'; nextHops: Record<string, string[]> }
  /** `command`: an absolute path and arguments. */
  | { provider: 'exec'; command: string[] };

const FIELDS: Record<string, readonly string[]> = { l2: [], route: ['nextHops'], exec: ['command'] };

/** Checks `identity`. Errors: what `wrong` makes of the sentence that says what is wrong with which field. */
export function parseIdentity(
  given: unknown,
  peers: readonly string[],
  wrong: (what: string) => Error,
): IdentityConfig {
  if (given === undefined) return { provider: 'l2' };
  if (typeof given !== 'object' || given === null) throw wrong('"identity" must be an object');
  const { provider, ...rest } = given as Record<string, unknown>;
  const fields = typeof provider === 'string' && Object.hasOwn(FIELDS, provider) ? FIELDS[provider] : undefined;
  if (fields === undefined) throw wrong(`"identity.provider" must be one of ${Object.keys(FIELDS).join(', ')}`);
  for (const field of Object.keys(rest)) {
    if (!fields.includes(field)) throw wrong(`"identity.${field}" is not known to provider ${provider}`);
  }
  if (provider === 'exec') return { provider, command: checkCommand(rest.command, wrong) };
  if (provider === 'route') return { provider, nextHops: checkNextHops(rest.nextHops ?? {}, peers, wrong) };
  return { provider: 'l2' };
}

function checkCommand(command: unknown, wrong: (what: string) => Error): string[] {
  const isCommand = Array.isArray(command) && command.length > 0 && command.every((word) => typeof word === 'string');
  if (!isCommand || !(command[0] as string).startsWith('/')) {
    throw wrong('"identity.command" must be a list of texts: an absolute path, then arguments');
  }
  return command;
}

function checkNextHops(
  given: unknown,
  peers: readonly string[],
  wrong: (what: string) => Error,
): Record<string, string[]> {
  const hops = Object.entries((typeof given === 'object' ? given : null) ?? { '': given });
  for (const [peer, addresses] of hops) {
    if (!peers.includes(peer)) throw wrong(`"identity.nextHops" must name peers; "${peer}" is none`);
    const families = Array.isArray(addresses)
      ? addresses.map((each) => (typeof each === 'string' ? isIP(each) : 0))
      : [0];
    if (families.includes(0) || new Set(families).size < families.length) {
      throw wrong(`"identity.nextHops.${peer}" must be a list of IP addresses, one of a family at most`);
    }
  }
  return Object.fromEntries(hops);
}
