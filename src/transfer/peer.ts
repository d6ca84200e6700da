import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import {
  checkServerIdentity,
  connect,
  createServer,
  type PeerCertificate,
  type Server,
  type TLSSocket,
} from 'node:tls';
import type { AgentConfig } from '../agent/config.ts';
import { errnoOf, GantryError, messageOf, REASONS, type Reason } from '../errors.ts';

/*
 * The peers' connection: TLS 1.3, a certificate on both sides, one connection per purpose. The caller begins with one
 * line of JSON that says what the connection is for, the answer is one line too, and from there on the connection
 * belongs to that purpose: messages of a migration's session, or the bytes of one stream.
 */

/** What a stream of data carries: of a container, by its place in the offer, or of the pod. */
export type Stream = { of: 'layer' | 'images'; container: number } | { of: 'volume'; volume: string } | { of: 'shm' };

export type Purpose =
  | { kind: 'session'; operation: string }
  | { kind: 'data'; operation: string; stream: Stream }
  | { kind: 'outcome'; operation: string }
  | { kind: 'revert'; operation: string }
  | { kind: 'done'; operation: string }
  /** Which of these moved pods the peer has or knows to be elsewhere, by their keys; the outcome has those, with spaces. */
  | { kind: 'identities'; operation: string; pods: readonly string[] }
  /** What the peer's node has, for a check; the answer is JSON up to the end of the connection. */
  | { kind: 'facts'; operation: string; images: readonly string[] };

type Answer = { ok: true; outcome?: string } | { ok: false; reason: Reason; message: string; hint: string };

/** The version of everything that two agents say to each other. */
const ALPN = 'gantry/2';
const LINE_LIMIT = 4096;
const CONNECT_LIMIT_MS = 5000;

/** Connects to a configured peer for one purpose. Errors: PEER_UNKNOWN, PEER_UNREACHABLE, PEER_UNTRUSTED, the peer's own. */
export async function connectPeer(config: AgentConfig, peer: string, purpose: Purpose, signal?: AbortSignal) {
  const address = config.peers[peer];
  if (address === undefined) {
    const known = Object.keys(config.peers).join(', ') || 'none';
    throw new GantryError('PEER_UNKNOWN', `no peer named ${peer} is configured on node ${config.node}`, {
      hint: `configured peers: ${known}`,
    });
  }
  const { host, port } = splitAddress(address);
  const socket = connect({ host, port, servername: peer, ALPNProtocols: [ALPN], ...(await tlsOptions(config)) });
  socket.setNoDelay(true);
  const limit = setTimeout(() => socket.destroy(codedError('ETIMEDOUT')), CONNECT_LIMIT_MS);
  const cancel = () => socket.destroy(new GantryError('CANCELLED', 'cancelled'));
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    if (signal?.aborted) cancel();
    await once(socket, 'secureConnect');
    socket.write(`${JSON.stringify(purpose)}\n`);
    const answer = JSON.parse(await readLine(socket)) as Answer;
    if (!answer.ok) throw new GantryError(answer.reason, answer.message, { hint: answer.hint });
    socket.on('error', () => socket.destroy());
    return { socket, outcome: answer.outcome ?? '' };
  } catch (error) {
    socket.on('error', () => socket.destroy());
    socket.destroy();
    throw connectError(error, peer, address);
  } finally {
    clearTimeout(limit);
    signal?.removeEventListener('abort', cancel);
  }
}

/** Serves peers. `accept` says what to answer, and takes the connection over from `answer()` on. */
export async function listenForPeers(
  config: AgentConfig,
  accept: (peer: string, purpose: Purpose, socket: TLSSocket, answer: (answer: Answer) => void) => Promise<void>,
): Promise<Server> {
  const { host, port } = splitAddress(config.peerListen);
  const server = createServer({
    ...(await tlsOptions(config)),
    ALPNProtocols: [ALPN],
    requestCert: true,
    // Checked below, so that a stranger is told why it is refused instead of seeing a connection reset.
    rejectUnauthorized: false,
  });
  server.on('secureConnection', (socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    const answer = (line: Answer) => void (socket.writable && socket.write(`${JSON.stringify(line)}\n`));
    const refuse = (error: unknown) => {
      const { reason, message, hint } = GantryError.from(error);
      answer({ ok: false, reason, message, hint });
      socket.end();
    };
    const limit = setTimeout(() => socket.destroy(), CONNECT_LIMIT_MS);
    const begin = async () => {
      // Read first: a connection that is closed with bytes unread is reset, and a refusal on its way is lost with it.
      const line = await readLine(socket);
      const peer = identify(config, socket);
      const purpose = JSON.parse(line) as Purpose;
      clearTimeout(limit);
      await accept(peer, purpose, socket, answer);
    };
    begin()
      .catch(refuse)
      .finally(() => clearTimeout(limit));
  });
  server.listen(port, host);
  await once(server, 'listening');
  return server;
}

function identify(config: AgentConfig, socket: TLSSocket): string {
  if (!socket.authorized) {
    throw new GantryError(
      'PEER_UNTRUSTED',
      `node ${config.node} does not accept the certificate: ${socket.authorizationError}`,
    );
  }
  const certificate = socket.getPeerCertificate() as PeerCertificate;
  const peer = Object.keys(config.peers).find((name) => checkServerIdentity(name, certificate) === undefined);
  if (peer === undefined) {
    throw new GantryError(
      'PEER_UNTRUSTED',
      `the certificate of ${certificate.subject?.CN} is no peer's of node ${config.node}`,
    );
  }
  return peer;
}

async function tlsOptions({ tls }: AgentConfig) {
  const [ca, cert, key] = await Promise.all([readFile(tls.ca), readFile(tls.cert), readFile(tls.key)]);
  return { ca, cert, key, minVersion: 'TLSv1.3' as const };
}

export function splitAddress(address: string): { host: string; port: number } {
  const colon = address.lastIndexOf(':');
  return { host: address.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(address.slice(colon + 1)) };
}

/** Reads up to a newline; what follows stays in the socket for whoever takes it over. */
async function readLine(socket: TLSSocket): Promise<string> {
  let line = Buffer.alloc(0);
  for (;;) {
    const chunk = socket.read() as Buffer | null;
    if (chunk === null) {
      if (socket.readableEnded || socket.destroyed) throw codedError('ECONNRESET');
      await readableOrClosed(socket);
      continue;
    }
    line = Buffer.concat([line, chunk]);
    const end = line.indexOf(0x0a);
    if (end >= 0) {
      if (end + 1 < line.length) socket.unshift(line.subarray(end + 1));
      return line.toString('utf8', 0, end);
    }
    if (line.length > LINE_LIMIT) throw new GantryError('PEER_UNTRUSTED', 'the peer does not speak this protocol');
  }
}

/** `once` of two events would leave a listener of the other behind at every call. */
async function readableOrClosed(socket: TLSSocket): Promise<void> {
  const done = new AbortController();
  const { signal } = done;
  try {
    await Promise.race([once(socket, 'readable', { signal }), once(socket, 'close', { signal })]);
  } finally {
    done.abort();
  }
}

function codedError(code: string): Error {
  return Object.assign(new Error(code), { code });
}

/** Errors of the handshake that mean "not the one we trust"; all others mean "not reachable". */
const UNTRUSTED = /^(ERR_TLS_|ERR_SSL_|CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_CA|HOSTNAME_MISMATCH)/;

function connectError(error: unknown, peer: string, address: string): GantryError {
  if (error instanceof GantryError && error.reason in REASONS) return error;
  const code = errnoOf(error) ?? messageOf(error);
  if (UNTRUSTED.test(code)) {
    return new GantryError(
      'PEER_UNTRUSTED',
      `peer ${peer} at ${address} has no certificate that is trusted here: ${code}`,
      {
        cause: error,
        hint: `make certificates of one authority with gantry pki; the one of that node must be for "${peer}"`,
      },
    );
  }
  return new GantryError('PEER_UNREACHABLE', `peer ${peer} at ${address} cannot be reached: ${code}`, {
    cause: error,
    hint: 'is gantry agent running there, and the port open?',
  });
}
