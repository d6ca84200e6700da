import { Command, InvalidArgumentError } from 'commander';

interface ProxyOptions {
  listen: string;
  upstream: string;
  upstreamWait: number;
  drainTimeout: number;
}

/** `gantry proxy`: the CRI relay alone, without agent or configuration. */
export function proxyCommand(): Command {
  return new Command('proxy')
    .description("relay the CRI between kubelet and the runtime's socket")
    .requiredOption('--listen <socket>', 'unix socket to serve the CRI on; kubelet and crictl are pointed here')
    .requiredOption('--upstream <socket>', "the runtime's unix socket, such as /run/containerd/containerd.sock")
    .option('--upstream-wait <ms>', 'how long a call waits for a runtime that is not there', parseMs, 1000)
    .option('--drain-timeout <ms>', 'how long calls in flight may go on after SIGTERM', parseMs, 5000)
    .addHelpText(
      'after',
      `
The relay passes every call of runtime.v1.RuntimeService and runtime.v1.ImageService on as it is and answers
UNIMPLEMENTED to all others. It needs no agent and no configuration, and may be restarted at any time: kubelet
reconnects, and no pod notices.

  gantry proxy --listen /run/gantry/cri.sock --upstream /run/containerd/containerd.sock
  crictl --runtime-endpoint unix:///run/gantry/cri.sock version
  kubelet --container-runtime-endpoint=unix:///run/gantry/cri.sock …

The socket gets the owner and mode of the runtime's. While the runtime is away, calls wait --upstream-wait and are
then answered UNAVAILABLE; connections from kubelet stay open. A call that was sent is never sent again.
Events (start, runtime lost and back, refused paths, stop) are JSON lines on stderr.
SIGTERM or SIGINT: no new connections, calls in flight get --drain-timeout to finish, then exit 0.
docs/relay.md tells more.`,
    )
    .action(async (options: ProxyOptions) => {
      const { serveRelay } = await import('../proxy/relay.ts');
      const stop = new AbortController();
      // Once: a second signal ends the process at once.
      for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stop.abort());
      // A log reader that goes away must not end the relay.
      process.stderr.on('error', () => undefined);
      const relay = await serveRelay({
        listen: options.listen,
        upstream: options.upstream,
        upstreamWaitMs: options.upstreamWait,
        drainTimeoutMs: options.drainTimeout,
        signal: stop.signal,
      });
      await relay.closed;
    });
}

function parseMs(text: string): number {
  const ms = Number(text);
  if (!/^\d+$/.test(text) || ms > 3_600_000) {
    throw new InvalidArgumentError('give whole milliseconds, at most 3600000 (an hour).');
  }
  return ms;
}
