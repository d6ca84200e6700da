import { once } from 'node:events';
import { connect as connectSocket, type Socket } from 'node:net';
import { Connection, type ConnectionHandler } from './connection.ts';
import type { ConnectionLimits } from './options.ts';
import { pooledReads } from './pooled-socket.ts';

/**
 * A connection to the server on a unix socket. It can be used at once; if nobody is there, `onClose` says so and all
 * streams end as `unprocessed` or `connection`.
 */
export function connect(path: string, handler: ConnectionHandler, limits: Partial<ConnectionLimits> = {}): Connection {
  return dial(path, handler, limits).connection;
}

/** The same, when somebody has been found to be there; rejects with the socket's error otherwise. */
export async function connected(
  path: string,
  handler: ConnectionHandler,
  limits: Partial<ConnectionLimits> = {},
): Promise<Connection> {
  const { connection, socket } = dial(path, handler, limits);
  await once(socket, 'connect');
  return connection;
}

function dial(
  path: string,
  handler: ConnectionHandler,
  limits: Partial<ConnectionLimits>,
): { connection: Connection; socket: Socket } {
  const socket = connectSocket({ path, onread: pooledReads((view) => connection.read(view)) });
  const connection = new Connection('client', socket, handler, limits);
  socket.resume(); // for 'end'; the data does not come that way
  return { connection, socket };
}
