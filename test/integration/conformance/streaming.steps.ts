import { AttachRequest, ExecRequest, RuntimeServiceService as Runtime } from '../../../src/gen/cri.ts';
import { one, twins, UNTIL_QUIET } from './step.ts';
import type { Twin } from './twin.ts';

const run =
  (cmd: string[], timeout = 20n) =>
  (twin: Twin) => ({ containerId: twin.own('container'), cmd, timeout });
const shell = (script: string, timeout?: bigint) => run(['sh', '-c', script], timeout);
const exec = (streams: Partial<ExecRequest>) => (twin: Twin) =>
  ExecRequest.fromPartial({ containerId: twin.own('container'), cmd: ['sh'], ...streams });
const attach = (streams: Partial<AttachRequest>) => (twin: Twin) =>
  AttachRequest.fromPartial({ containerId: twin.own('container'), ...streams });
const forward = (twin: Twin) => ({ podSandboxId: twin.own('sandbox'), port: [80, 8080] });

const surroundings = shell('hostname; env; pwd; cat /etc/resolv.conf /etc/hosts');
// More than a frame and a window of HTTP/2 hold; the kernel allows an argument 128 KiB.
const muchInput = run(['echo', ...['x', 'y', 'z'].map((letter) => letter.repeat(100_000))]);
const muchOutput = shell('seq 100000; seq 60000 >&2');
const both = shell('echo out; echo "Fehler: ä" >&2; exit 3');
const DEADLINE = ['grpc-timeout', '1S'];

/** Commands in containers, and the addresses at which clients stream. */
export const streamingSteps = [
  twins('ExecSync', Runtime.execSync, surroundings),
  one('ExecSync with output, errors and an exit code', Runtime.execSync, both, { sameBytes: true }),
  one('ExecSync with much output', Runtime.execSync, muchOutput, { sameBytes: true }),
  one('ExecSync with long arguments', Runtime.execSync, muchInput, { sameBytes: true }),
  twins('ExecSync of a command that does not exist', Runtime.execSync, run(['/no/such']), { status: 'failure' }),
  twins('ExecSync beyond its timeout', Runtime.execSync, shell('sleep 9', 1n), {
    status: 4,
    attempts: UNTIL_QUIET,
  }),
  // A newer containerd resets the stream, an older one answers with a failure.
  twins('ExecSync beyond the deadline of the call', Runtime.execSync, shell('sleep 9'), {
    headers: DEADLINE,
    status: 'failure',
    attempts: UNTIL_QUIET,
  }),
  twins('Exec', Runtime.exec, exec({ stdin: true, stdout: true, stderr: true })),
  one('Exec without a stream', Runtime.exec, exec({}), { status: 3 }),
  twins('Attach', Runtime.attach, attach({ stdout: true, stderr: true })),
  one('Attach to a terminal and its errors', Runtime.attach, attach({ tty: true, stderr: true }), { status: 3 }),
  twins('PortForward', Runtime.portForward, forward),
];
