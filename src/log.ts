import { type DestinationStream, destination, type Logger, pino } from 'pino';
import { redact } from './redact.ts';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

type Fields = Readonly<Record<string, unknown>>;

/** Events by a stable name, with fields. The name is what people and tests look for; no sentence stands in its place. */
export interface Log {
  trace(event: string, fields?: Fields): void;
  debug(event: string, fields?: Fields): void;
  info(event: string, fields?: Fields): void;
  warn(event: string, fields?: Fields): void;
  error(event: string, fields?: Fields): void;
  /** A log whose every event carries these fields. */
  child(fields: Fields): Log;
  /** Whether events of that level are written: spares the work of making fields that nobody sees. */
  writes(level: LogLevel): boolean;
}

// Beyond it lines are dropped: a reader of the log that has stopped must not stop the node's CRI.
const BUFFER_BYTES = 1024 * 1024;

/** JSON lines on standard error, where a supervisor collects them. */
export function logToStderr(level: LogLevel = 'info'): Log {
  const stderr = destination({ fd: 2, sync: false, maxLength: BUFFER_BYTES });
  // A reader that has gone away is no reason to end.
  stderr.on('error', () => undefined);
  return logTo(stderr, level);
}

/** JSON lines, one for each event, anywhere. */
export function logTo(out: DestinationStream, level: LogLevel = 'info'): Log {
  return new PinoLog(
    pino(
      {
        level,
        base: null, // PID and host are journald's to add
        timestamp: pino.stdTimeFunctions.isoTime,
        formatters: { level: (label) => ({ level: label }) },
      },
      out,
    ),
  );
}

class PinoLog implements Log {
  readonly #pino: Logger;

  constructor(logger: Logger) {
    this.#pino = logger;
  }

  trace(event: string, fields?: Fields): void {
    this.#write('trace', event, fields);
  }

  debug(event: string, fields?: Fields): void {
    this.#write('debug', event, fields);
  }

  info(event: string, fields?: Fields): void {
    this.#write('info', event, fields);
  }

  warn(event: string, fields?: Fields): void {
    this.#write('warn', event, fields);
  }

  error(event: string, fields?: Fields): void {
    this.#write('error', event, fields);
  }

  child(fields: Fields): Log {
    return new PinoLog(this.#pino.child(redact(fields) as Fields));
  }

  writes(level: LogLevel): boolean {
    return this.#pino.isLevelEnabled(level);
  }

  #write(level: LogLevel, event: string, fields: Fields | undefined): void {
    if (!this.#pino.isLevelEnabled(level)) return;
    // pino's own redaction knows paths of a fixed depth; credentials are where a message happens to have them.
    this.#pino[level]({ event, ...(fields && (redact(fields) as Fields)) });
  }
}

/** For those who must be given a log and have nothing to tell. */
export const silentLog: Log = logTo({ write: () => undefined }, 'error');
