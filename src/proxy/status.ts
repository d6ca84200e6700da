import { type StatusCode, status } from '../grpc-status.ts';
import { type Fields, field } from './h2/fields.ts';
import { ErrorCode } from './h2/frames.ts';

// grpc-message travels in a header block; clients limit those, and a longer text helps nobody.
const MESSAGE_CHARACTERS = 1024;

/** A status of the relay's own, as trailers. */
export function statusTrailers(code: StatusCode, message: string): Record<string, string> {
  return { 'grpc-status': String(code), 'grpc-message': encodeMessage(message) };
}

/** The same as header fields. */
export function statusFields(code: StatusCode, message: string): Fields {
  return Object.entries(statusTrailers(code, message)).map(([name, value]) => field(name, value));
}

/** What every answer of the relay's own begins with. */
export const ANSWER_HEADERS: Fields = [field(':status', '200'), field('content-type', 'application/grpc')];

/** A whole answer in one header block ("trailers-only" in the gRPC over HTTP/2 specification). */
export function trailersOnly(code: StatusCode, message: string): Fields {
  return [...ANSWER_HEADERS, ...statusFields(code, message)];
}

// grpc-message is percent-encoded UTF-8; only printable ASCII other than "%" stands for itself.
function encodeMessage(message: string): string {
  return message
    .toWellFormed()
    .slice(0, MESSAGE_CHARACTERS)
    .toWellFormed()
    .replace(/[^\x20-\x24\x26-\x7e]/gu, encodeURIComponent);
}

/** The number in a `grpc-status`; UNKNOWN when there is none, as gRPC says. */
export function codeOf(value: string | undefined): number {
  const code = Number(value ?? Number.NaN);
  return Number.isInteger(code) ? code : status.UNKNOWN;
}

/** The message of a `grpc-message`, or the text itself when it is not percent-encoded. */
export function decodeMessage(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** What a gRPC client makes of a stream that was reset ("HTTP2 Transport Mapping" of the gRPC specification). */
export function statusOfReset(code: number | undefined): StatusCode {
  switch (code) {
    case ErrorCode.REFUSED_STREAM:
      return status.UNAVAILABLE;
    case ErrorCode.CANCEL:
      return status.CANCELLED;
    case ErrorCode.ENHANCE_YOUR_CALM:
      return status.RESOURCE_EXHAUSTED;
    case ErrorCode.INADEQUATE_SECURITY:
      return status.PERMISSION_DENIED;
    default:
      return status.INTERNAL;
  }
}
