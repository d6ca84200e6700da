import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from './connect.ts';
import { Connection } from './connection.ts';
import { withPooledReads } from './pooled-socket.ts';
import { list } from './raw-peer.fixture.ts';
import { type CallEnd, type Loss, type Progress, Splice, type SpliceObserver } from './splice.ts';

/** A relay of nothing but the engine: every stream is spliced, and losses are answered UNAVAILABLE. */
export class EngineRelay implements AsyncDisposable {
  readonly folder: string;
  readonly downs = new Set<Connection>();
  readonly ends: CallEnd[] = [];
  readonly losses: { progress: Progress; loss: Loss }[] = [];
  readonly errors: unknown[] = [];
  upConnections = 0;
  up: Connection | undefined;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #observer: SpliceObserver = {
    onLoss: (_splice, progress, loss) => {
      this.losses.push({ progress, loss });
      if (loss.kind === 'reset') return undefined;
      return list(['grpc-status', '14'], ['grpc-message', `lost: ${loss.kind}`]);
    },
    onEnd: (_splice, end) => this.ends.push(end),
  };

  private constructor(folder: string) {
    this.folder = folder;
    this.#server = createServer({ pauseOnConnect: true }, (socket) => this.#serve(socket));
  }

  static async make(): Promise<EngineRelay> {
    const relay = new EngineRelay(await mkdtemp(join(tmpdir(), 'gantry-h2-')));
    await new Promise<void>((resolve) => relay.#server.listen(relay.listen, resolve));
    return relay;
  }

  get listen(): string {
    return join(this.folder, 'relay.sock');
  }

  get upstream(): string {
    return join(this.folder, 'upstream.sock');
  }

  #serve(client: Socket): void {
    const socket = withPooledReads(client, (view) => connection.read(view));
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    const connection: Connection = new Connection('server', socket, {
      onStream: (stream, headers, endStream) => {
        const splice = new Splice(stream, headers, endStream, this.#observer);
        splice.forward(this.#upstream());
        return splice;
      },
      onClose: () => this.downs.delete(connection),
      onInternalError: (error) => this.errors.push(error),
    });
    this.downs.add(connection);
  }

  #upstream(): Connection {
    if (this.up?.usable !== true) {
      this.upConnections += 1;
      this.up = connect(this.upstream, {
        onClose: () => undefined,
        onInternalError: (error) => this.errors.push(error),
      });
    }
    return this.up;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const down of this.downs) down.destroy();
    this.up?.destroy();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    await rm(this.folder, { recursive: true, force: true });
  }
}
