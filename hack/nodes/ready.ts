import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, credentials } from '@grpc/grpc-js';
import { LabError } from './failure.ts';
import { INSIDE, insideNode } from './paths.ts';
import { type NodeRecord, type Service, startTimeOf } from './registry.ts';

/** Waits until a service of a node answers; the error says what its log ends with. */
export async function waitFor(
  service: Service,
  node: NodeRecord,
  logTail: (service: string) => Promise<string>,
  signal: AbortSignal,
): Promise<void> {
  const limitMs = 30_000;
  const until = performance.now() + limitMs;
  for (;;) {
    const refusal = await probe(service, node.pid);
    if (refusal === undefined) return;
    signal.throwIfAborted();
    if ((await startTimeOf(node.pid)) === undefined) {
      throw new LabError(`node ${node.name} ended while it started:\n${await logTail('init')}`);
    }
    if (performance.now() > until) {
      throw new LabError(
        `${service} on node ${node.name} is not ready after ${limitMs / 1000} s: ${refusal}\n${await logTail(service)}`,
        {
          hint: service === 'containerd' ? '' : 'make build; or start without it: --services containerd',
        },
      );
    }
    await sleep(50, undefined, { signal });
  }
}

/** Why the service does not answer yet, or undefined when it does. */
function probe(service: Service, pid: number): Promise<string | undefined> {
  if (service === 'agent') return accepts(insideNode(pid, INSIDE.agentSocket));
  return answersVersion(insideNode(pid, service === 'proxy' ? INSIDE.criSocket : INSIDE.runtimeSocket));
}

/** One empty call of the CRI's Version: only containerd's CRI plugin, not its socket, says that pods can be made. */
async function answersVersion(socket: string): Promise<string | undefined> {
  const listens = await accepts(socket);
  if (listens !== undefined) return listens;
  const client = new Client(`unix:${socket}`, credentials.createInsecure());
  const asIs = (buffer: Buffer) => buffer;
  try {
    return await new Promise((resolve) => {
      const options = { deadline: Date.now() + 2000 };
      client.makeUnaryRequest('/runtime.v1.RuntimeService/Version', asIs, asIs, Buffer.alloc(0), options, (error) => {
        resolve(error?.message);
      });
    });
  } finally {
    client.close();
  }
}

function accepts(path: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('error', (error) => resolve(error.message));
    socket.once('connect', () => {
      socket.destroy();
      resolve(undefined);
    });
  });
}
