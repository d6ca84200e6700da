import { expect, test, vi } from 'vitest';
import { MethodNames } from './method-names.ts';
import { type CallRecord, type CallSink, Recorder } from './recorder.ts';

const LIST = '/runtime.v1.RuntimeService/ListContainers';

function recorder() {
  const calls: Pick<CallRecord, 'ownMs' | 'upstreamMs' | 'code' | 'message'>[] = [];
  const sink: CallSink = {
    // A record is read at once: it is not the sink's to keep.
    callEnded: ({ ownMs, upstreamMs, code, message }) => void calls.push({ ownMs, upstreamMs, code, message }),
  };
  return { recorder: new Recorder([sink]), calls };
}

function clockAt(...times: number[]) {
  const clock = vi.spyOn(performance, 'now');
  for (const time of times) clock.mockReturnValueOnce(time);
  return { [Symbol.dispose]: () => clock.mockRestore() };
}

test("a call's time is split: what was the runtime's, and the rest is the relay's own", () => {
  const { recorder: observer, calls } = recorder();
  using _clock = clockAt(100, 103, 110, 115);
  const call = observer.callStarted(LIST, 'piped');
  call.forwarding();
  call.answered();
  call.ended(0);
  expect(calls).toEqual([{ ownMs: 8, upstreamMs: 7, code: 0, message: '' }]);
});

test('without an answer all is upstream’s from forwarding on; a call that was never forwarded is all own', () => {
  const { recorder: observer, calls } = recorder();
  using _clock = clockAt(100, 101, 120, 200, 230);
  const cancelled = observer.callStarted(LIST, 'piped');
  cancelled.forwarding();
  cancelled.ended(1);
  observer.callStarted(LIST, 'served').ended(0);
  expect(calls).toMatchObject([
    { ownMs: 1, upstreamMs: 19, code: 1 },
    { ownMs: 30, upstreamMs: 0, code: 0 },
  ]);
});

test('a call ends once', () => {
  const { recorder: observer, calls } = recorder();
  const call = observer.callStarted(LIST, 'piped');
  call.ended(5, 'first');
  call.ended(0);
  expect(calls).toMatchObject([{ code: 5, message: 'first' }]);
});

test('methods have short names, the same in every version of the CRI', () => {
  const names = new MethodNames();
  expect(names.of(LIST)).toEqual({ label: 'ListContainers', kind: 'read' });
  expect(names.of('/runtime.v1alpha2.RuntimeService/ListContainers')).toBe(names.of(LIST));
  expect(names.of('/runtime.v1.ImageService/PullImage')).toMatchObject({ label: 'PullImage', kind: 'change' });
  expect(names.of('/runtime.v1.RuntimeService/FromTheFuture')).toEqual({ label: 'FromTheFuture', kind: undefined });
  expect(names.of('/grpc.health.v1.Health/Check').label).toBe('grpc.health.v1.Health/Check');
});

test('made-up paths make a bounded number of names, and do not use up those of methods yet to come', () => {
  const names = new MethodNames();
  const foreign = new Set(Array.from({ length: 10_000 }, (_, i) => names.of(`/a.b.C/M${i}`).label));
  expect(foreign.size).toBeLessThan(60);
  expect(foreign).toContain('other');
  expect(names.of('/runtime.v1.RuntimeService/New').label).toBe('New');
  const unknown = new Set(Array.from({ length: 10_000 }, (_, i) => names.of(`/runtime.v1.ImageService/M${i}`).label));
  expect(unknown.size).toBeLessThan(110);
  expect(names.of(LIST).label).toBe('ListContainers');
});
