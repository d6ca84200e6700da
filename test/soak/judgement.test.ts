import { status } from '@grpc/grpc-js';
import { describe, expect, test } from 'vitest';
import type { Fault } from './faults.ts';
import { type CallRecord, judge } from './judgement.ts';

const LIMITS = { drainTimeoutMs: 5000, upstreamWaitMs: 15_000 };
const SOCKET = '/run/containerd/containerd.sock';
const LOST = `containerd at ${SOCKET} closed the connection while the call was in flight; it may have been carried out or not`;
const STOPPING = 'gantry proxy is stopping; the call may have been carried out or not';

/** A call in flight from 900 to 1020, which failed because its connection broke. */
const call = (fields: Partial<CallRecord> = {}): CallRecord => ({
  relay: 'restarted',
  client: 'kubelet',
  method: 'ListContainers',
  startedAt: 900,
  endedAt: 1020,
  code: status.UNAVAILABLE,
  details: 'Connection dropped',
  ownConnection: false,
  isQuick: true,
  ...fields,
});

const killed: Fault = { kind: 'relay-killed', relay: 'restarted', at: 1000, gone: 1030, back: 1300 };
const stopped: Fault = { kind: 'relay-stopped', relay: 'restarted', at: 1000, gone: 6200, back: 6500 };
const runtime: Fault = { kind: 'containerd-killed', at: 1000, gone: 1030, accepting: 2000, answering: 2050 };

const kind = (one: CallRecord, ...faults: Fault[]) => judge(one, faults, LIMITS).kind;

test('without a fault every failure is an offence', () => {
  expect(judge(call(), [], LIMITS)).toEqual({ kind: 'offence', why: 'the call failed without need' });
});

describe('a relay that is killed', () => {
  test('excuses what was in flight on it', () => {
    expect(judge(call(), [killed], LIMITS)).toMatchObject({ kind: 'had-to-fail', fault: killed });
  });

  test('excuses what a client sent before it noticed', () => {
    expect(kind(call({ startedAt: 1025 }), killed)).toBe('had-to-fail');
  });

  test.each([
    ['of another relay', { relay: 'steady' }],
    ['that ended before', { endedAt: 990 }],
    ['that began after', { startedAt: 1200, endedAt: 1210 }],
    ['that was told late', { endedAt: 2000 }],
    ['with another code', { code: status.INTERNAL }],
    ['that was refused its connection', { details: 'No connection established. Last error: connect ECONNREFUSED' }],
    ['with the words of the relay', { details: LOST }],
    ['whose connection was made afterwards, for the next relay', { startedAt: 1020, ownConnection: true }],
  ] satisfies [string, Partial<CallRecord>][])('does not excuse a call %s', (_what, fields) => {
    expect(kind(call(fields), killed)).toBe('offence');
  });
});

describe('a relay that is stopped', () => {
  test('excuses what outlasts its drain timeout', () => {
    expect(kind(call({ endedAt: 6010, details: STOPPING }), stopped)).toBe('had-to-fail');
  });

  test('excuses event streams, which end at once', () => {
    const events = { method: 'GetContainerEvents', details: STOPPING };
    expect(kind(call({ ...events, endedAt: 1010 }), stopped)).toBe('had-to-fail');
    expect(kind(call({ ...events, endedAt: 990 }), stopped)).toBe('offence');
    expect(kind(call({ ...events, startedAt: 2000, endedAt: 2010 }), stopped)).toBe('offence');
  });

  test.each([
    ['that was cut off before', { endedAt: 5000, details: STOPPING }],
    ['whose connection broke', { endedAt: 6010 }],
    ['that began when it took no more', { startedAt: 2000, endedAt: 6010, details: STOPPING }],
  ] satisfies [string, Partial<CallRecord>][])('does not excuse a call %s', (_what, fields) => {
    expect(kind(call(fields), stopped)).toBe('offence');
  });
});

describe('containerd that is killed', () => {
  test('excuses what was in flight there, through every relay', () => {
    expect(kind(call({ details: LOST }), runtime)).toBe('had-to-fail');
    expect(kind(call({ details: LOST, relay: 'steady' }), runtime)).toBe('had-to-fail');
  });

  test.each([
    ['that came when it was away', { details: LOST, startedAt: 1500, endedAt: 1510 }],
    [
      'that waited for it and was sent too early',
      { endedAt: 2020, details: 'server is not initialized yet: unavailable' },
    ],
    ['whose connection broke', {}],
    [
      'that did not wait long enough',
      { endedAt: 2020, details: `containerd at ${SOCKET} is not there; gantry waited 1000 ms for it.` },
    ],
  ] satisfies [string, Partial<CallRecord>][])('does not excuse a call %s', (_what, fields) => {
    expect(kind(call(fields), runtime)).toBe('offence');
  });

  test('excuses what waited in vain for as long as it should', () => {
    const details = `containerd at ${SOCKET} is not there; gantry waited 15000 ms for it. The call was not sent.`;
    const away: Fault = { kind: 'containerd-killed', at: 1000, gone: 1030 };
    expect(kind(call({ startedAt: 1100, endedAt: 16_100, details }), away)).toBe('had-to-fail');
  });
});

describe('a consequence', () => {
  const later = { startedAt: 3000, endedAt: 3010, code: status.NOT_FOUND, details: 'no such container' };

  test('is what containerd says of a pod whose earlier call had to fail', () => {
    expect(kind(call({ ...later, after: call() }), killed)).toBe('consequence');
  });

  test('is none when the earlier failure was an offence, or when the call was not answered', () => {
    expect(kind(call({ ...later, after: call() }))).toBe('offence');
    expect(kind(call({ ...later, code: status.UNAVAILABLE, after: call() }), killed)).toBe('offence');
    expect(kind(call({ ...later, code: status.DEADLINE_EXCEEDED, after: call() }), killed)).toBe('offence');
  });
});

test('a call that hung is named as that', () => {
  const hung = call({ code: status.DEADLINE_EXCEEDED, details: 'Deadline exceeded' });
  expect(judge(hung, [killed, runtime], LIMITS)).toEqual({
    kind: 'offence',
    why: 'the call hung until its deadline',
  });
});
