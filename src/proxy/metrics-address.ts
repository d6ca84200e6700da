import { isIPv4 } from 'node:net';
import { isAbsolute } from 'node:path';

export type MetricsAddress = { path: string } | { host: string; port: number };

/** `HOST:PORT` or `unix:PATH`; undefined for what is neither, or could be reached from another machine. */
export function metricsAddress(text: string): MetricsAddress | undefined {
  const socket = /^unix:(.+)$/.exec(text)?.[1];
  if (socket !== undefined) return isAbsolute(socket) ? { path: socket } : undefined;
  const [, host = '', digits = ''] = /^(.+):(\d{1,5})$/.exec(text) ?? [];
  const port = Number(digits);
  if (host === '' || port > 65_535) return undefined;
  if (host === '[::1]') return { host: '::1', port };
  // Not looked up: what a name means is another file's to change.
  if (host === 'localhost') return { host: '127.0.0.1', port };
  return isIPv4(host) && host.startsWith('127.') ? { host, port } : undefined;
}
