import type { status } from '@grpc/grpc-js';

export type StatusCode = (typeof status)[keyof typeof status] & number;

// grpc-message travels in a header block; clients limit those, and a longer text helps nobody.
const MESSAGE_CHARACTERS = 1024;

/** A status of the relay's own, as trailers. */
export function statusTrailers(code: StatusCode, message: string): Record<string, string> {
  return { 'grpc-status': String(code), 'grpc-message': encodeMessage(message) };
}

/** A whole answer in one header block ("trailers-only" in the gRPC over HTTP/2 specification). */
export function trailersOnly(code: StatusCode, message: string): Record<string, string> {
  return { ':status': '200', 'content-type': 'application/grpc', ...statusTrailers(code, message) };
}

// grpc-message is percent-encoded UTF-8; only printable ASCII other than "%" stands for itself.
function encodeMessage(message: string): string {
  return message
    .toWellFormed()
    .slice(0, MESSAGE_CHARACTERS)
    .toWellFormed()
    .replace(/[^\x20-\x24\x26-\x7e]/gu, encodeURIComponent);
}
