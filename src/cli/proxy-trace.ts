import { Command } from 'commander';
import { type Format, outputOption } from './output.ts';

interface Options {
  socket: string;
  method: string[];
  outputFormat: Format;
}

/** `gantry proxy trace`: the calls of a running relay, as they end. */
export function proxyTraceCommand(): Command {
  return new Command('trace')
    .description('follow the calls of a running proxy, one line for each as it ends')
    .option('--socket <socket>', "the proxy's socket", '/run/gantry/cri.sock')
    .option('--method <name...>', 'only these methods; * stands for any text', [])
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
TOTAL is the time until the client had its answer: OWN is what gantry took of it, UPSTREAM the runtime. UP and DOWN are
bytes of messages, towards the runtime and back. SUBJECT is the pod, or the container in it. Following costs the proxy
next to nothing; when this command can not keep up, calls are left out and their number is shown. Ctrl-C ends it.

Examples:
  gantry proxy trace --method 'List*' ContainerStatus
  gantry proxy trace --method StopContainer StopPodSandbox -o json | jq '{method, code, durationMs}'`,
    )
    .exitOverride()
    .action(async ({ socket, method, outputFormat }: Options) => {
      // Not before: the relay itself, which is the same command, must not load a gRPC client.
      const { followTrace } = await import('./follow-trace.ts');
      await followTrace(socket, method, outputFormat);
    });
}
