import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { COMPRESSIONS } from '../archive/layout.ts';
import { GantryError } from '../errors.ts';
import { AgentService, CheckpointRequest } from '../gen/gantry/v1/agent.ts';
import { agentOption, runOperation } from './operation.ts';
import { type Format, outputOption, parseCount, printResult } from './output.ts';

interface Options {
  output?: string;
  archive?: string;
  oci?: string;
  parent?: string;
  trackMemory: boolean;
  compress: string;
  recipient: string[];
  leaveRunning: boolean;
  pause: boolean;
  stop: boolean;
  tcp?: string;
  tcpEstablished: boolean;
  tcpSkipInFlight: boolean;
  extUnixSk: boolean;
  linkRemap: boolean;
  forceIrmap: boolean;
  ghostLimit?: string;
  criuOption: string[];
  timeout?: number;
  agent: string;
  outputFormat: Format;
}

const collect = (value: string, all: string[]) => [...all, value];

/** `gantry checkpoint`: the state of a container or a pod goes into an archive, a folder or an image. */
export function checkpointCommand(): Command {
  return new Command('checkpoint')
    .description('write the state of a running container, or of a pod, into an archive or a folder of this node')
    .argument(
      '<container>',
      'ID, ID prefix or name of a running container; or of a pod, by the ID of its sandbox or by its name',
    )
    .option('--archive <file>', 'archive to make; it must not exist yet')
    .option('--output <dir>', 'folder to make, of one container; it must not exist yet')
    .option('--oci <dir>', 'folder to make, an OCI image layout with the archive as its layer; it must not exist yet')
    .option(
      '--parent <dir>',
      'with --output: only what was written since this checkpoint, the last one of the container',
    )
    .option('--track-memory', 'with --output: another one with this one for its --parent is to follow', false)
    .addOption(
      new Option('--compress <how>', 'compression of the archive; the container stands still for it')
        .choices(COMPRESSIONS)
        .default('none'),
    )
    .option('--recipient <age1...>', 'encrypt the archive for this key of age; may be repeated', collect, [])
    .option('--leave-running', 'let the container go on afterwards', false)
    .option('--pause', 'leave the container frozen afterwards: gantry resume lets it go on', false)
    .option('--stop', 'end the container afterwards (the default)', false)
    .addOption(
      new Option(
        '--tcp <how>',
        'open TCP connections: save them, or leave them out; otherwise they are an error',
      ).choices(['established', 'close']),
    )
    .option('--tcp-established', 'the same as --tcp established', false)
    .option('--tcp-skip-in-flight', 'leave out connections that are not accepted yet', false)
    .option('--ext-unix-sk', 'allow datagram sockets (unix) whose other end is in another container of the pod', false)
    .option('--link-remap', 'keep files that are open and deleted by a name of their own', false)
    .option('--force-irmap', 'find the files that inotify watches by searching', false)
    .option('--ghost-limit <size>', 'how large a deleted file may be that is still open (1M)')
    .option('--criu-option <line>', 'a line of configuration for CRIU, see criu(8); may be repeated', collect, [])
    .addOption(new Option('--timeout <seconds>', 'for the dump').argParser(parseCount('--timeout', 1)))
    .addOption(agentOption())
    .addOption(outputOption())
    .addHelpText(
      'after',
      `
It holds CRIU's images, what the container has changed in its image, /dev/shm, its log and its configuration: all of
the process's memory, with every secret in it. So archives have mode 0600, folders 0700. checkpointctl reads archives,
too. gantry restore starts a container from any of them; gantry swap puts one into a container that is there.

The container is frozen while it is dumped. Compression and encryption make that longer; without them memory goes from
CRIU into the archive once.

With --parent a folder has only the pages that were written since the last checkpoint, and needs that one's folder, in its
place and unchanged, for as long as it is to be restored. The first of such a chain is made with --track-memory. The kernel
has to mark written pages for it (CONFIG_MEM_SOFT_DIRTY).

Examples:
  gantry checkpoint redis --archive /var/tmp/redis.tar --leave-running --tcp established
  gantry checkpoint redis --archive /var/tmp/redis.tar.zst --compress zstd --recipient age1...
  gantry checkpoint redis --output /var/tmp/redis-1 --pause
  gantry checkpoint redis --output /var/tmp/redis-1 --leave-running --track-memory
  gantry checkpoint redis --output /var/tmp/redis-2 --leave-running --parent /var/tmp/redis-1
  gantry checkpoint redis --oci /var/tmp/image --leave-running && skopeo copy oci:/var/tmp/image docker://...`,
    )
    .action(async (container: string, options: Options) => {
      const request = requestFor(container, options);
      const result = await runOperation(options.agent, AgentService.checkpoint, request);
      const paused = options.pause ? `, and paused: gantry resume ${container} lets it go on` : '';
      const text = `${container} is saved in ${result.directory}${paused}`;
      printResult(options.outputFormat, result, text);
    });
}

function requestFor(container: string, options: Options): CheckpointRequest {
  const { output, archive, oci, tcp, leaveRunning, pause, stop } = options;
  const path = (given: string | undefined) => (given === undefined ? '' : resolve(given));
  if ([output, archive, oci].filter((one) => one !== undefined).length !== 1)
    throw new GantryError('USAGE', 'where to? one of --archive, --output and --oci');
  if (output === undefined && (options.parent !== undefined || options.trackMemory))
    throw new GantryError('USAGE', 'an archive or an image stands alone: --parent and --track-memory need --output');
  if (output !== undefined && options.compress !== 'none')
    throw new GantryError('USAGE', '--compress is for archives: use --archive or --oci');
  if (archive === undefined && options.recipient.length > 0)
    throw new GantryError('USAGE', '--recipient is for archives: use --archive');
  if ([leaveRunning, pause, stop].filter(Boolean).length > 1)
    throw new GantryError('USAGE', 'what becomes of it? one of --leave-running, --pause and --stop');
  if (tcp === 'close' && options.tcpEstablished)
    throw new GantryError('USAGE', 'either --tcp close or --tcp-established');
  const switches = {
    'tcp-skip-in-flight': options.tcpSkipInFlight,
    'ext-unix-sk': options.extUnixSk,
    'link-remap': options.linkRemap,
    'force-irmap': options.forceIrmap,
  };
  return CheckpointRequest.fromPartial({
    container,
    output: path(output),
    archive: path(archive),
    image: path(oci),
    parent: path(options.parent),
    trackMemory: options.trackMemory,
    compression: options.compress,
    recipients: options.recipient,
    leaveRunning,
    pause,
    tcp: tcp ?? (options.tcpEstablished ? 'established' : ''),
    criuOptions: [
      ...Object.entries(switches).flatMap(([name, isOn]) => (isOn ? [name] : [])),
      ...(options.ghostLimit === undefined ? [] : [`ghost-limit ${options.ghostLimit}`]),
      ...options.criuOption,
    ],
    timeoutSeconds: options.timeout ?? 0,
  });
}
