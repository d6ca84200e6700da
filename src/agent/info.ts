import { release } from 'node:os';
import { InfoResponse } from '../gen/gantry/v1/agent.ts';
import { criuVersion } from '../runtime/criu.ts';
import { run } from '../runtime/program.ts';
import type { Node } from './node.ts';

/** What this node is and which programs it has; a missing one has the version "". */
export async function nodeInfo({ config, cri }: Node): Promise<InfoResponse> {
  const orMissing = (version: Promise<string>) => version.catch(() => '');
  const [criu, runc, containerd] = await Promise.all([
    orMissing(criuVersion()),
    orMissing(run('runc', ['--version']).then((text) => /version (\S+)/.exec(text)?.[1] ?? '')),
    orMissing(cri.version().then(({ runtimeName, runtimeVersion }) => `${runtimeName} ${runtimeVersion}`)),
  ]);
  return InfoResponse.fromPartial({
    node: config.node,
    version: process.env.GANTRY_VERSION ?? 'development',
    peers: Object.keys(config.peers),
    versions: { criu, runc, containerd, kernel: release() },
  });
}
