import { constants } from 'node:os';
import { Command } from 'commander';
import type { EffectiveConfig, Flags, Setting } from '../proxy/config.ts';
import { type Format, formatJson, formatTable, outputOption } from './output.ts';
import { proxyTraceCommand } from './proxy-trace.ts';

interface Options {
  config?: string;
  check?: boolean;
  listen?: string;
  upstream?: string;
  upstreamWait?: string;
  drainTimeout?: string;
  metrics?: string;
  logLevel?: string;
  runtimeApi?: string;
  stateDir?: string;
  checkpoints?: string;
  agent?: string;
  outputFormat: Format;
}

/** `gantry proxy`: the CRI relay alone, without agent and, if need be, without a configuration. */
export function proxyCommand(): Command {
  return (
    new Command('proxy')
      .description("relay the CRI between kubelet and the runtime's socket (a daemon)")
      // Defaults and limits are the configuration's, so that file and flags are checked alike and all at once.
      .option('--config <file>', 'configuration, YAML (default: /etc/gantry/config.yaml, if it is there)')
      .option('--check', 'check configuration and flags, print what they come to, and exit with 0 or 2')
      .option('--listen <socket>', 'serve the CRI here (default: /run/gantry/cri.sock)')
      .option('--upstream <socket>', "the runtime's socket (default: /run/containerd/containerd.sock)")
      .option('--upstream-wait <ms>', 'how long a call waits for a runtime that is not there (default: 5000)')
      .option('--drain-timeout <ms>', 'how long calls in flight may go on after SIGTERM (default: 3000)')
      .option('--metrics <address>', 'serve Prometheus metrics on a loopback HOST:PORT or unix:PATH (default: off)')
      .option('--log-level <level>', 'trace, debug, info, warn or error (default: info)')
      .option('--runtime-api <version>', "the runtime's version of the CRI: auto, v1 or v1alpha2 (default: auto)")
      .option('--state-dir <folder>', 'where the slots of this node are kept (default: /var/lib/gantry)')
      .option('--checkpoints <whose>', 'who makes and restores checkpoints: auto, runtime or gantry (default: auto)')
      .option('--agent <socket>', "the agent's socket, for checkpoints (default: /run/gantry/agent.sock)")
      .addOption(outputOption())
      // -o after "trace" is for trace.
      .enablePositionalOptions()
      .addCommand(proxyTraceCommand())
      .addHelpText(
        'after',
        `
The relay passes every call of runtime.v1.RuntimeService and runtime.v1.ImageService on as it is. Beside them it
answers gRPC health and its own gantry.v1.Relay itself, and UNIMPLEMENTED to all else. It needs no agent, and may be
restarted at any time: kubelet reconnects, and no pod notices.

Trying it:
  gantry proxy --listen /run/gantry/cri.sock --upstream /run/containerd/containerd.sock
  crictl --runtime-endpoint unix:///run/gantry/cri.sock version
  gantry proxy trace                                         watch the calls as they go

Running it (units are in hack/systemd; docs/relay.md tells how kubelet is put on it, and taken off again):
  gantry proxy --check                                       what would be used, and from where
  gantry proxy --check -o json | jq .listen
  kubelet --container-runtime-endpoint=unix:///run/gantry/cri.sock …

The configuration has the same settings; flags win over it:
  proxy:
    listen: /run/gantry/cri.sock
    upstream: /run/containerd/containerd.sock
    upstreamWaitMs: 5000
    drainTimeoutMs: 3000
    metrics: 127.0.0.1:9464      # or unix:/run/gantry/metrics.sock
    logLevel: info               # debug also shows List and Status calls
    runtimeApi: auto
    stateDir: /var/lib/gantry
    checkpoints: auto            # the runtime's own where it has them; gantry: never the runtime's
    agentSocket: /run/gantry/agent.sock

The socket gets the owner and mode of the runtime's; one that systemd passes (LISTEN_FDS) is used as it is. While the
runtime is away, calls wait --upstream-wait and are then answered UNAVAILABLE; connections from kubelet stay open. A call
that was sent is never sent again. The log is JSON lines on stderr.
SIGTERM or SIGINT: no new connections, calls in flight get --drain-timeout to finish, then exit 0.`,
      )
      .action(async (options: Options) => {
        const { readProxyConfig } = await import('../proxy/config.ts');
        const config = await readProxyConfig(options.config, flagsOf(options));
        if (options.check === true) console.log(describe(config, options.outputFormat));
        else await run(config);
      })
  );
}

async function run({ values }: EffectiveConfig): Promise<void> {
  const [{ runProxy }, { logToStderr }] = await Promise.all([import('../proxy/service.ts'), import('../log.ts')]);
  const stop = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    // Not `once`: execa, which runs systemd-notify, ends the process with a signal for which nobody listens any more.
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(128 + constants.signals[name]);
      stop.abort();
    });
  }
  await runProxy(values, logToStderr(values.logLevel), stop.signal);
}

function flagsOf(options: Options): Flags {
  const { listen, upstream, upstreamWait, drainTimeout, agent, ...same } = options;
  const { metrics, logLevel, runtimeApi, stateDir, checkpoints } = same;
  const all: Record<Setting, string | undefined> = {
    ...{ listen, upstream, upstreamWaitMs: upstreamWait, drainTimeoutMs: drainTimeout, agentSocket: agent },
    ...{ metrics, logLevel, runtimeApi, stateDir, checkpoints },
  };
  return Object.fromEntries(Object.entries(all).filter(([, text]) => text !== undefined)) as Flags;
}

function describe({ values, origins }: EffectiveConfig, format: Format): string {
  if (format === 'json') return formatJson(values);
  const rows = Object.entries(values).map(([setting, value]) => [
    setting,
    value === '' ? '(off)' : String(value),
    origins[setting as Setting],
  ]);
  return formatTable([['SETTING', 'VALUE', 'FROM'], ...rows]);
}
