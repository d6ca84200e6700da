import { constants, type ServerHttp2Stream } from 'node:http2';

const POLL_MS = 20;

/**
 * Asks a client that is still sending to stop, once it has been answered: RST_STREAM with NO_ERROR (RFC 9113 8.1).
 * nghttp2 drops whatever is queued for a stream when it is reset, the answer included, and no event tells that the
 * answer has been written: its stream state does. (Node 26.10 spins for ever in SendPendingData when a stream that has
 * announced trailers is closed with NO_ERROR between its last data and its trailers.)
 */
export function stopRequest(down: ServerHttp2Stream): void {
  down.unpipe();
  down.resume(); // a stream closes only when all that it received was read
  setImmediate(resetWhenAnswered, down);
}

function resetWhenAnswered(down: ServerHttp2Stream): void {
  if (down.destroyed || down.closed) return; // the request has ended by itself
  if (down.state.localClose === 1) down.close(constants.NGHTTP2_NO_ERROR);
  else setTimeout(resetWhenAnswered, POLL_MS, down).unref();
}
