import { once } from 'node:events';
import { type ClientHttp2Session, connect } from 'node:http2';

const HEAD_BYTES = 5;

/** One unary call, ready to be sent again and again. */
export interface Request {
  readonly name: string;
  readonly path: string;
  readonly body: Buffer;
}

export function request(method: string, message: Uint8Array = new Uint8Array(), name = method): Request {
  const body = Buffer.alloc(HEAD_BYTES + message.length);
  body.writeUInt32BE(message.length, 1);
  body.set(message, HEAD_BYTES);
  return { name, path: `/runtime.v1.RuntimeService/${method}`, body };
}

/**
 * A client on Node's own HTTP/2: not the relay's engine, and with a header table and Huffman codes as grpc-go has them. It
 * sends what grpc-go sends, a deadline included, which is another text with each call.
 */
export class Client implements Disposable {
  readonly #session: ClientHttp2Session;
  #deadline = 0;

  private constructor(session: ClientHttp2Session) {
    this.#session = session;
    session.on('error', () => undefined); // each call tells its own
  }

  static async connect(path: string): Promise<Client> {
    const session = connect('http://localhost', { path, settings: { initialWindowSize: 1024 * 1024 } } as object);
    await once(session, 'connect');
    session.setLocalWindowSize(16 * 1024 * 1024);
    return new Client(session);
  }

  /** Resolves with the length of the answer's body; rejects when it has no status OK. */
  call({ path, body }: Request): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#deadline = (this.#deadline + 1) % 1000;
      const stream = this.#session.request({
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        'user-agent': 'grpc-go/1.72.1',
        te: 'trailers',
        'grpc-timeout': `${119_000 + this.#deadline}m`,
      });
      let bytes = 0;
      let status: unknown;
      stream.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
      });
      stream.on('response', (headers) => {
        status = headers['grpc-status'];
      });
      stream.on('trailers', (trailers) => {
        status = trailers['grpc-status'];
      });
      stream.on('error', reject);
      stream.on('close', () => {
        if (status === '0') resolve(bytes);
        else reject(new Error(`${path}: ${bytes} bytes, status ${String(status)}`));
      });
      stream.end(body);
    });
  }

  [Symbol.dispose](): void {
    this.#session.destroy();
  }
}
