import type { Fields } from './fields.ts';

// What RFC 9113 8.1.1 to 8.3 call malformed, as far as an intermediary that does not look into messages can tell.

export function isRequest(fields: Fields): boolean {
  let method = 0;
  let scheme = 0;
  let path = 0;
  let authority = 0;
  let regular = false;
  for (const { name, value, malformed } of fields) {
    if (malformed) return false;
    if (name.charCodeAt(0) !== COLON) {
      regular = true;
      continue;
    }
    if (regular) return false;
    if (name === ':method') method += 1;
    else if (name === ':scheme') scheme += 1;
    else if (name === ':authority') authority += 1;
    else if (name === ':path' && value !== '') path += 1;
    else return false;
  }
  return method === 1 && scheme === 1 && path === 1 && authority <= 1;
}

/** The status of a response, or undefined if it is none. */
export function statusOf(fields: Fields): number | undefined {
  let status: number | undefined;
  let regular = false;
  for (const { name, value, malformed } of fields) {
    if (malformed) return undefined;
    if (name.charCodeAt(0) !== COLON) regular = true;
    else if (regular || name !== ':status' || status !== undefined || !/^[1-9]\d\d$/.test(value)) return undefined;
    else status = Number(value);
  }
  return status;
}

export function isTrailers(fields: Fields): boolean {
  for (const { name, malformed } of fields) if (malformed || name.charCodeAt(0) === COLON) return false;
  return true;
}

const COLON = 0x3a;
