import { type Field, type Fields, field, fieldValue } from './h2/fields.ts';

/** Of `grpc-timeout` (gRPC over HTTP/2, Requests): at most eight digits and a unit. */
const TIMEOUT = /^(\d{1,8})([HMSmun])$/;
const UNIT_MS: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };
const MOST_DIGITS = 99_999_999;

/** How long the client waits, in milliseconds from its request on; Infinity when it does not say. */
export function timeoutOf(headers: Fields): number {
  const [, digits, unit = ''] = TIMEOUT.exec(fieldValue(headers, 'grpc-timeout') ?? '') ?? [];
  return digits === undefined ? Number.POSITIVE_INFINITY : Number(digits) * (UNIT_MS[unit] ?? 1);
}

/** What is left of it, as the runtime is to be told: in the finest unit that has room for it, rounded up. */
export function timeoutField(ms: number): Field {
  const micros = Math.ceil(ms * 1000);
  if (micros <= MOST_DIGITS) return field('grpc-timeout', `${Math.max(micros, 0)}u`);
  if (ms <= MOST_DIGITS) return field('grpc-timeout', `${Math.ceil(ms)}m`);
  return field('grpc-timeout', `${Math.min(Math.ceil(ms / 1000), MOST_DIGITS)}S`);
}
