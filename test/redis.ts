import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export type Reply = string | number | null | Buffer | Reply[];

/**
 * One connection to a Redis, and only one: unlike a client library it never connects again, because whether the
 * connection lives is what is being watched. Commands are pipelined.
 */
export class RedisConnection {
  readonly #socket: Socket;
  readonly #waiting: { resolve(reply: Reply): void; reject(error: Error): void }[] = [];
  #buffer: Buffer = Buffer.alloc(0);
  #error: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the connection was closed')));
  }

  static async open(host: string, port = 6379, limitMs = 10_000): Promise<RedisConnection> {
    const until = performance.now() + limitMs;
    for (;;) {
      const socket = connect({ host, port });
      try {
        await once(socket, 'connect');
        return new RedisConnection(socket);
      } catch (error) {
        socket.destroy();
        // It may still be starting.
        if (performance.now() > until) throw error;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  get isOpen(): boolean {
    return this.#error === undefined;
  }

  send(...words: (string | Buffer)[]): Promise<Reply> {
    if (this.#error) return Promise.reject(this.#error);
    const parts: Buffer[] = [Buffer.from(`*${words.length}\r\n`)];
    for (const word of words) {
      const bytes = Buffer.from(word);
      parts.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n'));
    }
    this.#socket.write(Buffer.concat(parts));
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  close(): void {
    this.#socket.removeAllListeners('close');
    this.#socket.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #fail(error: Error): void {
    this.#error ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#error);
  }

  #receive(chunk: Buffer): void {
    this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
    let at = 0;
    for (;;) {
      const parsed = parse(this.#buffer, at);
      if (parsed === undefined) break;
      at = parsed.end;
      const waiting = this.#waiting.shift();
      if (parsed.reply instanceof RedisError) waiting?.reject(parsed.reply);
      else waiting?.resolve(parsed.reply);
    }
    this.#buffer = this.#buffer.subarray(at);
  }
}

class RedisError extends Error {}

/** One reply of the Redis protocol (RESP2) at an offset, or undefined when it is not complete yet. */
function parse(buffer: Buffer, start: number): { reply: Reply | RedisError; end: number } | undefined {
  const lineEnd = buffer.indexOf('\r\n', start);
  if (lineEnd < 0) return undefined;
  const line = buffer.toString('utf8', start + 1, lineEnd);
  const end = lineEnd + 2;
  switch (buffer[start]) {
    case 0x2b: // +
      return { reply: line, end };
    case 0x2d: // -
      return { reply: new RedisError(line), end };
    case 0x3a: // :
      return { reply: Number(line), end };
    case 0x24: {
      // $
      const length = Number(line);
      if (length < 0) return { reply: null, end };
      if (buffer.length < end + length + 2) return undefined;
      return { reply: Buffer.from(buffer.subarray(end, end + length)), end: end + length + 2 };
    }
    default: {
      // *
      const replies: Reply[] = [];
      let at = end;
      for (let index = 0; index < Number(line); index++) {
        const item = parse(buffer, at);
        if (item === undefined) return undefined;
        replies.push(item.reply as Reply);
        at = item.end;
      }
      return { reply: replies, end: at };
    }
  }
}

const VALUE_BYTES = 4096;

/** Fills a Redis with random values, so that no zero page and no compression helps. */
export async function fill(redis: RedisConnection, mebibytes: number): Promise<void> {
  const keys = (mebibytes * 1024 * 1024) / VALUE_BYTES;
  for (let from = 0; from < keys; from += 1024) {
    const batch = Array.from({ length: Math.min(1024, keys - from) }, (_, index) =>
      redis.send('SET', `data:${from + index}`, randomBytes(VALUE_BYTES)),
    );
    await Promise.all(batch);
  }
}

/** SHA-256 over every key and value that {@link fill} wrote, in the order of the keys. */
export async function digest(redis: RedisConnection): Promise<string> {
  const keys: string[] = [];
  let cursor = '0';
  do {
    const [next, found] = (await redis.send('SCAN', cursor, 'MATCH', 'data:*', 'COUNT', '5000')) as [Buffer, Buffer[]];
    cursor = next.toString();
    keys.push(...found.map(String));
  } while (cursor !== '0');
  keys.sort();
  const hash = createHash('sha256').update(`${keys.length}\n`);
  for (let from = 0; from < keys.length; from += 512) {
    const values = (await redis.send('MGET', ...keys.slice(from, from + 512))) as Buffer[];
    for (const [index, value] of values.entries()) hash.update(`${keys[from + index]}\0`).update(value);
  }
  return hash.digest('hex');
}

export interface CounterReport {
  requests: number;
  lost: number;
  repeated: number;
  reconnects: number;
}

/**
 * Increments one key a thousand times a second over one connection, on a schedule that does not wait for answers, and
 * checks every answer: they must be consecutive.
 */
export class Counter {
  readonly answeredAt: number[] = [];
  readonly #redis: RedisConnection;
  readonly #timer: NodeJS.Timeout;
  readonly #answers: Promise<void>[] = [];
  #sent = 0;
  #last = 0;
  #skipped = 0;
  #repeated = 0;
  #broken = 0;

  private constructor(redis: RedisConnection) {
    this.#redis = redis;
    const startedAt = performance.now();
    this.#timer = setInterval(() => {
      // Timers are late now and then: what is due is sent.
      const due = Math.floor(performance.now() - startedAt);
      while (this.#sent < due) this.#increment();
    }, 1);
  }

  static async start(host: string): Promise<Counter> {
    const redis = await RedisConnection.open(host);
    await redis.send('SET', 'counter', '0');
    return new Counter(redis);
  }

  /** Stops sending, waits for what is under way, and reports. */
  async stop(limitMs = 10_000): Promise<CounterReport> {
    clearInterval(this.#timer);
    let limit: NodeJS.Timeout | undefined;
    await Promise.race([
      Promise.all(this.#answers),
      new Promise((resolve) => {
        limit = setTimeout(resolve, limitMs);
      }),
    ]);
    clearTimeout(limit);
    this.#redis.close();
    const answered = this.answeredAt.length;
    return {
      requests: this.#sent,
      lost: this.#sent - answered + this.#skipped,
      repeated: this.#repeated,
      reconnects: this.#broken,
    };
  }

  /** The longest time between two answers since a moment, in milliseconds; both of performance.now(). */
  maxGapMs(since: number, until = performance.now()): number {
    const times = this.answeredAt.filter((time) => time >= since && time <= until);
    let gap = 0;
    for (const [index, time] of [...times, until].entries()) gap = Math.max(gap, time - (times[index - 1] ?? since));
    return gap;
  }

  #increment(): void {
    this.#sent++;
    this.#answers.push(
      this.#redis.send('INCR', 'counter').then(
        (reply) => {
          const value = Number(reply);
          if (value <= this.#last) this.#repeated++;
          else this.#skipped += value - this.#last - 1;
          this.#last = Math.max(this.#last, value);
          this.answeredAt.push(performance.now());
        },
        () => {
          // The one connection is gone; a client of the old kind would have to connect again now.
          this.#broken = 1;
        },
      ),
    );
  }
}
