import { readdir, readFile } from 'node:fs/promises';
import { PodSandboxState } from '../../src/gen/cri.ts';
import { Cri } from '../../src/runtime/cri.ts';
import { type LabEnvironment, labExec, type NodeEnvironment } from '../lab.ts';

/** Empty while no operation is under way. */
const FOLDERS = ['/run/gantry/images', '/run/gantry/tickets', '/run/gantry/spent'];

/** What the journal says of a migration that is over: until the pod is gone, and on the source for a day before that. */
const OVER = ['retained', 'reserved', 'serving', 'final'];

/** Every network namespace of a node; the last column tells which. */
const TABLES =
  'nft list tables; for ns in /run/netns/*; do [ ! -e "$ns" ] || nsenter --net="$ns" nft list tables; done';

/** What containerd and runc keep, by ID. Snapshots that are not active are layers of images. */
const KEPT = [
  'for id in $(ls /run/containerd/runc/k8s.io); do echo "runc $id"; done',
  'ctr -n k8s.io containers ls -q | sed "s/^/container /"',
  'ctr -n k8s.io snapshots ls | sed -n "s/^\\(\\S*\\) .* Active.*/snapshot \\1/p"',
  // containerd's own expire: one that was killed in the middle of a call leaves them to that.
  'ctr -n k8s.io leases ls | sed "1d; /gc.expire/d; s/^/lease /"',
  'grep -oE "[0-9a-f]{64}" /proc/mounts | sort -u | sed "s/^/mount /"',
  'find /sys/fs/cgroup -type d | grep -oE "[0-9a-f]{64}" | sort -u | sed "s/^/cgroup /"',
].join('; ');

/** What is on a node, of Gantry and of the runtime below the CRI, that no pod of the CRI accounts for. */
export async function leftoversOn(lab: LabEnvironment, node: NodeEnvironment): Promise<string[]> {
  using cri = new Cri(node.runtimeSocket);
  const [sandboxes, containers] = await Promise.all([cri.listSandboxes(), cri.listContainers()]);
  const known = new Set([...sandboxes, ...containers].map(({ id }) => id));
  const inNode = async (script: string) => {
    const { stdout } = await labExec(lab.name, node.name, ['sh', '-c', script]);
    return stdout.split('\n').filter(Boolean);
  };
  const [files, entries, tables, kept, namespaces] = await Promise.all([
    Promise.all(FOLDERS.map((folder) => filesIn(node, folder))),
    entriesUnderWay(node),
    inNode(TABLES),
    inNode(KEPT),
    filesIn(node, '/run/netns'),
  ]);
  return [
    ...files.flat(),
    ...entries,
    ...tables,
    ...kept.filter((line) => !known.has(line.split(' ')[1] ?? '')),
    ...(namespaces.length === sandboxes.length ? [] : namespaces),
  ].map((what) => `${node.name}: ${what}`);
}

/** Names and content of the journal's files of what is not over. */
export async function entriesUnderWay(node: NodeEnvironment): Promise<string[]> {
  const files = await filesIn(node, '/var/lib/gantry/migrations');
  const texts = await Promise.all(
    files.map((file) => readFile(`/proc/${node.pid}/root${file}`, 'utf8').catch(() => '{}')),
  );
  return files.flatMap((file, index) => {
    const { state } = JSON.parse(texts[index] || '{}') as { state?: string };
    return state === undefined || OVER.includes(state) ? [] : [`${file} ${texts[index]}`];
  });
}

/** The sandboxes and containers of a pod on a node, whatever their state; the pod and its container have one name. */
export async function partsOn(node: NodeEnvironment, pod: string, socket: 'runtimeSocket' | 'criSocket') {
  using cri = new Cri(node[socket]);
  const [sandboxes, containers] = await Promise.all([cri.listSandboxes(), cri.listContainers()]);
  return [
    ...sandboxes
      .filter(({ metadata }) => metadata?.name === pod)
      .map(({ id, state }) => ({
        sandbox: id,
        ready: state === PodSandboxState.SANDBOX_READY,
      })),
    ...containers.filter(({ metadata }) => metadata?.name === pod).map(({ id }) => ({ container: id })),
  ];
}

async function filesIn(node: NodeEnvironment, folder: string): Promise<string[]> {
  const names = await readdir(`/proc/${node.pid}/root${folder}`).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return names.map((name) => `${folder}/${name}`);
}
