import {
  type CallOptions,
  Client,
  connectivityState,
  credentials,
  Metadata,
  type MethodDefinition,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import { GantryError } from '../errors.ts';

/** Sizes and back-off that kubelet and containerd use; grpc-js's own defaults are 4 MiB and up to two minutes. */
const CHANNEL = {
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
  'grpc.max_send_message_length': 16 * 1024 * 1024,
  'grpc.initial_reconnect_backoff_ms': 100,
  // kubelet takes 3 s; on a socket of this machine a try costs nothing.
  'grpc.max_reconnect_backoff_ms': 500,
};

/** How long a call waits for a server that was there and is away: containerd restarts in less. */
const AWAY_LIMIT_MS = 1500;

/** A client for a gRPC server on a unix socket, to be used with {@link unary}. */
export function connectSocket(socket: string): Client {
  return new Client(`unix://${socket}`, credentials.createInsecure(), {
    ...CHANNEL,
    'grpc.default_authority': 'localhost',
  });
}

/** One unary call. Fails with grpc-js's ServiceError; the deadline is the caller's and there always is one. */
export async function unary<Request, Response>(
  client: Client,
  method: MethodDefinition<Request, Response>,
  request: Request,
  options: { timeoutMs: number; signal?: AbortSignal },
): Promise<Response> {
  // grpc-js fails calls at once while it waits for its next try to connect, also when the server is back already.
  if (client.getChannel().getConnectivityState(false) === connectivityState.TRANSIENT_FAILURE) await ready(client);
  return new Promise((resolve, reject) => {
    const call = client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      new Metadata(),
      { deadline: Date.now() + options.timeoutMs } satisfies CallOptions,
      (error, response) => {
        options.signal?.removeEventListener('abort', cancel);
        if (error)
          reject(options.signal?.aborted ? new GantryError('CANCELLED', 'cancelled', { cause: error }) : error);
        else resolve(response as Response);
      },
    );
    const cancel = () => call.cancel();
    options.signal?.addEventListener('abort', cancel, { once: true });
    if (options.signal?.aborted) cancel();
  });
}

/** Never fails: the call that follows does, with its reason. */
function ready(client: Client): Promise<void> {
  return new Promise((resolve) => client.waitForReady(Date.now() + AWAY_LIMIT_MS, () => resolve()));
}

export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && typeof (error as { code?: unknown }).code === 'number' && 'details' in error;
}

/** A runtime's error as a GantryError that names what was being done; UNAVAILABLE and NOT_FOUND keep their meaning, and silence means the first. */
export function fromRuntime(error: unknown, doing: string): GantryError {
  if (!isServiceError(error)) return GantryError.from(error);
  const text = `${doing}: ${error.details}`;
  switch (error.code) {
    case status.UNAVAILABLE:
    case status.DEADLINE_EXCEEDED:
      return new GantryError('RUNTIME_UNAVAILABLE', text, {
        cause: error,
        hint: 'is containerd running on this node?',
      });
    case status.NOT_FOUND:
      return new GantryError('NOT_FOUND', text, { cause: error });
    case status.CANCELLED:
      return new GantryError('CANCELLED', text, { cause: error });
    default:
      return new GantryError('INTERNAL', text, { cause: error });
  }
}
