import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Http2Server, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  Client,
  credentials,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { logTo } from '../log.ts';
import { type Relay, type RelayOptions, serveRelay } from './relay.ts';

const SERVICE = '/runtime.v1.RuntimeService';
const UNLIMITED = {
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
  'grpc.max_metadata_size': 100_000,
};
const bytes = (value: Buffer): Buffer => value;

function method(name: string, requestStream: boolean, responseStream: boolean): MethodDefinition<Buffer, Buffer> {
  return {
    path: `${SERVICE}/${name}`,
    requestStream,
    responseStream,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  };
}

/** A service of raw bytes with one method of each shape, under a name that the relay lets through. */
export const methods = {
  unary: method('Unary', false, false),
  download: method('Download', false, true),
  upload: method('Upload', true, false),
  both: method('Both', true, true),
};

/** A folder with two socket paths and everything that runs on them; all of it goes when the test ends. */
export class Bench implements AsyncDisposable {
  readonly folder: string;
  readonly events: { event: string; [field: string]: unknown }[] = [];
  readonly #stack = new AsyncDisposableStack();

  private constructor(folder: string) {
    this.folder = folder;
    this.#stack.defer(() => rm(folder, { recursive: true, force: true }));
  }

  static async make(): Promise<Bench> {
    return new Bench(await mkdtemp(join(tmpdir(), 'gantry-relay-')));
  }

  get upstream(): string {
    return join(this.folder, 'containerd.sock');
  }

  get listen(): string {
    return join(this.folder, 'gantry.sock');
  }

  async relay(options: Partial<RelayOptions> = {}): Promise<Relay> {
    const relay = await serveRelay({
      listen: this.listen,
      upstream: this.upstream,
      drainTimeoutMs: 0,
      log: logTo({ write: (line: string) => void this.events.push(JSON.parse(line)) }),
      ...options,
    });
    return this.#stack.use(relay);
  }

  /** An upstream as real clients and servers make it. */
  async grpcServer(implementation: UntypedServiceImplementation): Promise<Server> {
    const server = new Server(UNLIMITED);
    server.addService(methods, { ...implementation });
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${this.upstream}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    this.#stack.defer(() => server.forceShutdown());
    return server;
  }

  grpcClient(path = this.listen): Client {
    const client = new Client(`unix:${path}`, credentials.createInsecure(), UNLIMITED);
    this.#stack.defer(() => client.close());
    return client;
  }

  /** An upstream that misbehaves frame by frame. `close` drops its connections as a killed process does. */
  async rawServer(
    onStream: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, raw: string[]) => void,
  ): Promise<RawServer> {
    const server = new RawServer(onStream);
    await server.listen(this.upstream);
    this.#stack.defer(() => server.close());
    return server;
  }

  /** A client that sees frames: it sends `headers` and `body` and gathers what comes back. */
  rawClient(path = this.listen): RawClient {
    return this.#stack.use(new RawClient(path));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

export class RawServer {
  readonly #server: Http2Server;
  connections = 0;
  #destroy: (() => void)[] = [];

  constructor(onStream: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, raw: string[]) => void) {
    // Like grpc-go, it does not mind how many streams are reset.
    this.#server = createServer({ streamResetBurst: 1_000_000, streamResetRate: 1_000_000, maxSessionMemory: 10_000 });
    this.#server.on('session', (session) => {
      this.connections += 1;
      session.on('error', () => undefined);
      session.on('stream', (stream, headers, _flags, raw) => {
        stream.on('error', () => undefined);
        onStream(stream, headers, raw);
      });
      this.#destroy.push(() => session.destroy());
    });
    this.#server.on('connection', (socket) => this.#destroy.push(() => socket.destroy()));
  }

  async listen(path: string): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(path, resolve));
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const destroy of this.#destroy.toReversed()) destroy();
    this.#destroy = [];
    await closed;
  }
}

export interface RawAnswer {
  headers: IncomingHttpHeaders | undefined;
  rawHeaders: string[];
  headersEndStream: boolean;
  body: Buffer;
  trailers: IncomingHttpHeaders | undefined;
  rawTrailers: string[];
  resetCode: number;
}

export class RawClient implements Disposable {
  readonly session;

  constructor(path: string) {
    this.session = connect('http://localhost', {
      path,
      strictSingleValueFields: false,
      maxSessionMemory: 10_000,
    } as object);
    this.session.on('error', () => undefined);
  }

  request(path: string, headers: readonly string[] = [], signal?: AbortSignal) {
    const stream = this.session.request(
      [':method', 'POST', ':path', path, 'content-type', 'application/grpc', 'te', 'trailers', ...headers],
      signal === undefined ? {} : { signal },
    );
    stream.on('error', () => undefined);
    return stream;
  }

  /** Resolves when the stream has closed, however that came about. */
  answer(stream: ReturnType<RawClient['request']>): Promise<RawAnswer> {
    const answer: RawAnswer = {
      headers: undefined,
      rawHeaders: [],
      headersEndStream: false,
      body: Buffer.alloc(0),
      trailers: undefined,
      rawTrailers: [],
      resetCode: -1,
    };
    const chunks: Buffer[] = [];
    stream.on('response', (headers, flags, raw) => {
      Object.assign(answer, { headers, rawHeaders: raw, headersEndStream: (flags & 1) === 1 });
    });
    stream.on('trailers', (trailers, _flags, raw) => Object.assign(answer, { trailers, rawTrailers: raw }));
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    return new Promise((resolve) => {
      stream.on('close', () => resolve({ ...answer, body: Buffer.concat(chunks), resetCode: stream.rstCode ?? -1 }));
    });
  }

  async call(path: string, headers: readonly string[] = [], body: Buffer = message('')): Promise<RawAnswer> {
    const stream = this.request(path, headers);
    stream.end(body);
    return this.answer(stream);
  }

  [Symbol.dispose](): void {
    this.session.destroy();
  }
}

/** A gRPC message as it is framed on the wire: flag, length, bytes. */
export function message(content: string | Buffer, flag = 0): Buffer {
  const bytes = Buffer.from(content);
  const head = Buffer.alloc(5);
  head.writeUInt8(flag, 0);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

export function metadata(entries: [string, string | Buffer][]): Metadata {
  const all = new Metadata();
  for (const [key, value] of entries) all.add(key, value);
  return all;
}
