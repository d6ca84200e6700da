import { type IncomingHttpHeaders, sensitiveHeaders } from 'node:http2';

/** Header fields as they came, in order and with repeats: name, value, name, value… */
export type RawHeaders = readonly string[];

/**
 * The request as it goes upstream. Node's header object joins repeated keys with commas, which turns two `-bin` values
 * into one that no longer decodes, so the raw list is what is passed on.
 */
export function requestHeaders(raw: RawHeaders, headers: IncomingHttpHeaders): RawHeaders {
  const kept = raw.flatMap((value, i) => (i % 2 === 1 || value === ':authority' ? [] : [value, raw[i + 1] ?? '']));
  // kubelet sends the socket's path, percent-encoded, as authority; HTTP/2 servers other than grpc-go reject it.
  return keepSensitive([':authority', 'localhost', ...kept], headers);
}

/** The response headers as they go downstream. */
export function responseHeaders(raw: RawHeaders, headers: IncomingHttpHeaders): RawHeaders {
  return keepSensitive([...raw], headers);
}

/** Trailers in the only form `sendTrailers` takes; repeated keys become lists. */
export function trailersFrom(raw: RawHeaders): Record<string, string[]> {
  const trailers: Record<string, string[]> = Object.create(null);
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i] ?? '';
    trailers[name] ??= [];
    trailers[name].push(raw[i + 1] ?? '');
  }
  return trailers;
}

// RFC 7541 7.1.3: an intermediary keeps "never indexed" on the fields that came with it.
function keepSensitive(list: string[], headers: IncomingHttpHeaders): RawHeaders {
  const names = (headers as { [sensitiveHeaders]?: string[] })[sensitiveHeaders];
  return names === undefined || names.length === 0 ? list : Object.assign(list, { [sensitiveHeaders]: names });
}
