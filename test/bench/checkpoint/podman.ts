import { copyFile } from 'node:fs/promises';
import { execa } from 'execa';
import { type LabEnvironment, labExec, type NodeEnvironment } from '../../lab.ts';

/** Beside containerd's own storage: what lies over an overlay cannot be one. */
const STORAGE = '--root /var/lib/containerd/podman --runroot /run/podman --storage-driver overlay';
const PODMAN = `PODMAN_IGNORE_CGROUPSV1_WARNING=1 podman ${STORAGE} --runtime runc --cgroup-manager cgroupfs --events-backend none`;
const CONTAINER = 'bench-podman';
const CLONE = 'bench-podman-clone';

/** Debian's Podman in a node of a lab, with the same runc and CRIU. It goes with the lab. */
export class Podman {
  readonly #lab: string;
  readonly #image: string;

  private constructor(lab: string, image: string) {
    this.#lab = lab;
    this.#image = image;
  }

  /** Over this machine's network: nodes have none that leads out. */
  static async install(lab: LabEnvironment, node: NodeEnvironment): Promise<Podman> {
    await copyFile('/etc/resolv.conf', `/proc/${node.pid}/root/etc/resolv.conf`);
    const script = `apt-get -qq -o Acquire::Check-Valid-Until=false update &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends podman`;
    await execa('nsenter', ['-t', String(node.pid), '-m', '--', 'sh', '-c', script], { timeout: 600_000 });
    const image = '/var/lib/containerd/podman-image.tar';
    const trust = `mkdir -p /etc/containers; echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json`;
    const podman = new Podman(lab.name, lab.images.redis);
    await podman.#shell(
      `${trust}; ctr -n k8s.io image export ${image} ${lab.images.redis} && ${PODMAN} load -i ${image}; rm ${image}`,
    );
    return podman;
  }

  /** A Redis with so many values of so many bytes. */
  async start(count: number, bytes: number): Promise<void> {
    await this.#shell(`${PODMAN} run -d --network none --name ${CONTAINER} ${this.#image} --save '' --enable-debug-command yes
      ${PODMAN} exec ${CONTAINER} sh -c 'until redis-cli ping; do sleep 0.1; done; redis-cli debug populate ${count} k ${bytes}'`);
  }

  dump(archive: string): string {
    return `${PODMAN} container checkpoint --leave-running --compress none --file-locks --export ${archive} ${CONTAINER}`;
  }

  restore(archive: string): string {
    return `${PODMAN} container restore --import ${archive} --name ${CLONE} --file-locks`;
  }

  removeClone(): Promise<void> {
    return this.#shell(`${PODMAN} rm -f -t 0 ${CLONE}`);
  }

  stop(): Promise<void> {
    return this.#shell(`${PODMAN} rm -f -t 0 ${CONTAINER}`);
  }

  async #shell(script: string): Promise<void> {
    await labExec(this.#lab, 'a', ['sh', '-ec', script], { timeoutMs: 300_000 });
  }
}
