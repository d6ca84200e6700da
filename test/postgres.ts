import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const PROTOCOL = 0x0003_0000;

/**
 * One connection to a PostgreSQL (protocol 3, simple queries), and only one: whether it lives is what is being watched.
 */
export class PostgresConnection {
  /** What was notified and not asked for yet, as "channel payload". */
  readonly notifications: string[] = [];
  readonly #socket: Socket;
  #buffer: Buffer = Buffer.alloc(0);
  #rows: string[][] = [];
  #failure: Error | undefined;
  #waiting: { resolve(rows: string[][]): void; reject(error: Error): void } | undefined;
  #broken: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#break(error));
    socket.on('close', () => this.#break(new Error('the connection was closed')));
  }

  /** Connects as a user without a password; while the server starts, again and again. */
  static async open(host: string, user: string, limitMs = 20_000): Promise<PostgresConnection> {
    const until = performance.now() + limitMs;
    for (;;) {
      const socket = connect({ host, port: 5432, noDelay: true });
      try {
        await once(socket, 'connect');
        const connection = new PostgresConnection(socket);
        const words = Buffer.from(`user\0${user}\0database\0postgres\0\0`);
        const head = Buffer.alloc(8);
        head.writeUInt32BE(8 + words.length, 0);
        head.writeUInt32BE(PROTOCOL, 4);
        await connection.#ask(Buffer.concat([head, words]));
        return connection;
      } catch (error) {
        socket.destroy();
        if (performance.now() > until) throw error;
        await sleep(50);
      }
    }
  }

  /** The rows of the last of these statements, as text. */
  query(sql: string): Promise<string[][]> {
    const text = Buffer.from(`${sql}\0`);
    const head = Buffer.from('Q\0\0\0\0');
    head.writeUInt32BE(4 + text.length, 1);
    return this.#ask(Buffer.concat([head, text]));
  }

  /** The one value of the one row. */
  async value(sql: string): Promise<string | undefined> {
    return (await this.query(sql))[0]?.[0];
  }

  [Symbol.dispose](): void {
    this.#socket.removeAllListeners('close').destroy();
  }

  #ask(message: Buffer): Promise<string[][]> {
    if (this.#broken) return Promise.reject(this.#broken);
    if (this.#waiting) return Promise.reject(new Error('one query after another'));
    this.#socket.write(message);
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  #break(error: Error): void {
    this.#broken ??= error;
    this.#waiting?.reject(this.#broken);
    this.#waiting = undefined;
  }

  /** Messages are a letter, a length that counts itself, and a body ("Message Formats" of PostgreSQL's manual). */
  #receive(chunk: Buffer): void {
    this.#buffer = Buffer.concat([this.#buffer, chunk]);
    while (this.#buffer.length >= 5) {
      const end = 1 + this.#buffer.readUInt32BE(1);
      if (this.#buffer.length < end) return;
      this.#handle(this.#buffer.toString('latin1', 0, 1), this.#buffer.subarray(5, end));
      this.#buffer = this.#buffer.subarray(end);
    }
  }

  #handle(kind: string, body: Buffer): void {
    if (kind === 'D') this.#rows.push(columns(body));
    // Of several statements the last one's rows count.
    else if (kind === 'T') this.#rows = [];
    else if (kind === 'E') this.#failure = new Error(messageOf(body));
    else if (kind === 'A') this.notifications.push(body.toString('utf8', 4).split('\0').slice(0, 2).join(' '));
    else if (kind === 'Z') this.#answer();
  }

  #answer(): void {
    const waiting = this.#waiting;
    if (this.#failure) waiting?.reject(this.#failure);
    else waiting?.resolve(this.#rows);
    this.#waiting = undefined;
    this.#failure = undefined;
    this.#rows = [];
  }
}

function columns(body: Buffer): string[] {
  let at = 2;
  return Array.from({ length: body.readUInt16BE(0) }, () => {
    const length = body.readInt32BE(at);
    const value = body.toString('utf8', at + 4, at + 4 + Math.max(0, length));
    at += 4 + Math.max(0, length);
    return value;
  });
}

/** Fields of an error: a letter and a text each; M is the message. */
function messageOf(body: Buffer): string {
  const field = body
    .toString('utf8')
    .split('\0')
    .find((text) => text.startsWith('M'));
  return field?.slice(1) ?? 'an error without a message';
}
