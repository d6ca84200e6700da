import { once } from 'node:events';
import { rename } from 'node:fs/promises';
import { createServer } from 'node:net';

/** A listening socket for another process. Until `release`, which keeps its name, this one listens on it, too. */
export async function listeningSocket(
  path: string,
  backlog: number,
): Promise<{ fd: number; release: () => Promise<void> }> {
  const server = createServer();
  server.listen({ path, backlog });
  await once(server, 'listening');
  // Node has no other way to pass a listening socket to a program that is not Node's own child.
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const release = async (): Promise<void> => {
    await rename(path, `${path}.kept`); // closing removes the name it was bound to
    server.close();
    await once(server, 'close');
    await rename(`${path}.kept`, path);
  };
  return { fd, release };
}
