import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';
import { messageOf } from '../errors.ts';
import type { Log } from '../log.ts';
import { type MetricsAddress, metricsAddress } from './metrics-address.ts';
import { listenOn } from './socket.ts';

// Not by `import`, which reads every export, also those that load all of undici and HTTP/2: 15 MiB.
const { createServer } = process.getBuiltinModule('node:http');

export interface MetricsServer extends AsyncDisposable {
  /** As `HOST:PORT` or `unix:PATH`, with the port that was taken when 0 was asked for. */
  readonly address: string;
}

/** Serves `GET /metrics` to this machine. A unix socket is for its owner only. */
export async function serveMetrics(registry: Registry, address: MetricsAddress): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    if (request.url !== '/metrics') return void response.writeHead(404).end('see /metrics\n');
    if (request.method !== 'GET') return void response.writeHead(405, { allow: 'GET' }).end();
    registry.metrics().then(
      (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
      () => response.writeHead(500).end(),
    );
  });
  const remove = await listen(server, address);
  return {
    address: 'path' in address ? `unix:${address.path}` : formatAddress(server.address() as AddressInfo),
    async [Symbol.asyncDispose]() {
      await remove();
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

/**
 * The same where a setting says; undefined, and in the log, when they cannot be served: that is no reason to do less.
 *
 * @param setting as {@link metricsAddress} takes it
 */
export async function tryToServe(registry: Registry, setting: string, log: Log): Promise<MetricsServer | undefined> {
  try {
    const address = metricsAddress(setting);
    if (address === undefined) throw new Error('it is no address of this machine');
    const server = await serveMetrics(registry, address);
    log.info('metrics', { address: server.address });
    return server;
  } catch (error) {
    log.error('metrics-failed', { address: setting, reason: messageOf(error) });
    return undefined;
  }
}

async function listen(server: Server, address: MetricsAddress): Promise<() => Promise<void>> {
  if ('path' in address) return listenOn(server, address.path);
  server.listen(address);
  await once(server, 'listening');
  return () => Promise.resolve();
}

function formatAddress({ address, family, port }: AddressInfo): string {
  return family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`;
}
