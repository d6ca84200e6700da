import { Client, credentials } from '@grpc/grpc-js';

const HOUR_MS = 3_600_000;
const COMMON = {
  // kubelet and crictl take 16 MiB.
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
  'grpc.max_send_message_length': 16 * 1024 * 1024,
  'grpc.default_authority': 'localhost',
  // Otherwise all clients of one socket in this process share a connection.
  'grpc.use_local_subchannel_pool': 1,
};

/**
 * A connection as kubelet has it: kept, and made anew after 100 ms to 3 s (cri-client's remote_runtime.go). Calls do not
 * wait for it to be ready: on a socket that the service manager holds no attempt to connect ever fails.
 */
export function kubeletClient(socket: string): Client {
  return new Client(`unix://${socket}`, credentials.createInsecure(), {
    ...COMMON,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 3000,
  });
}

/**
 * A connection for one call. grpc-js connects once more after a failed attempt even when the client has been closed since
 * (Subchannel.handleBackoffTimer asks nobody), and would hold that connection for ever; so it may only try in an hour.
 */
export function crictlClient(socket: string): Client {
  return new Client(`unix://${socket}`, credentials.createInsecure(), {
    ...COMMON,
    'grpc.initial_reconnect_backoff_ms': HOUR_MS,
    'grpc.max_reconnect_backoff_ms': HOUR_MS,
  });
}
