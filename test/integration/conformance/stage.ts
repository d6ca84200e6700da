import { writeFile } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { vi } from 'vitest';
import { ociArchive } from '../../../hack/nodes/oci.ts';
import { ImageStatusRequest, ImageServiceService as Images } from '../../../src/gen/cri.ts';
import { Bench, type RawClient } from '../../../src/proxy/relay.fixture.ts';
import { labDown, labExec, labUp, type NodeEnvironment } from '../../lab.ts';
import { type Answer, type Call, perform, statusOf, uncompressed } from './answer.ts';
import { comparable } from './comparable.ts';
import type { Step, Suite } from './step.ts';
import { Twin } from './twin.ts';
import { unary } from './unary.ts';

const LAB = 't-conformance';

interface Actor {
  readonly client: RawClient;
  readonly twin: Twin;
}

interface Both<T> {
  readonly direct: T;
  readonly relayed: T;
}

/** A lab with one runtime, the relay in front of it, and for each of the two sockets a client and a twin. */
export class Stage implements AsyncDisposable {
  readonly #direct: Actor;
  readonly #relayed: Actor;
  readonly #everything: AsyncDisposableStack;

  private constructor(direct: Actor, relayed: Actor, everything: AsyncDisposableStack) {
    this.#direct = direct;
    this.#relayed = relayed;
    this.#everything = everything;
  }

  static async open(suite: Suite): Promise<Stage> {
    await using everything = new AsyncDisposableStack();
    everything.defer(() => labDown(LAB));
    const lab = await labUp({ name: LAB, nodes: 1, suite, services: ['containerd'] });
    const node = lab.nodes[0] as NodeEnvironment;
    const bench = everything.use(await Bench.make());
    await bench.relay({ upstream: node.runtimeSocket });
    const direct: Actor = { client: bench.rawClient(node.runtimeSocket), twin: new Twin('direct') };
    const relayed: Actor = { client: bench.rawClient(), twin: new Twin('relayed') };
    for (const actor of [direct, relayed]) await importImage(node, actor);
    return new Stage(direct, relayed, everything.move());
  }

  /** Performs a step on both sockets. Gives the status of the direct answer and both as they are to be compared. */
  async perform(step: Step) {
    const relayedSubject = (step.about === 'one' ? this.#direct : this.#relayed).twin;
    const play = async () => {
      const direct = () => this.#play(step, this.#direct.client, this.#direct.twin);
      const relayed = () => this.#play(step, this.#relayed.client, relayedSubject);
      const answers = step.inTurn
        ? ([await direct(), await relayed()] as const)
        : await Promise.all([direct(), relayed()]);
      const [own, others] = step.about === 'one' ? [] : [this.#direct.twin, this.#relayed.twin];
      return {
        status: statusOf(answers[0]),
        direct: comparable(answers[0], step, own),
        relayed: comparable(answers[1], step, others),
      };
    };
    let outcome = await play();
    for (let attempt = 1; attempt < step.attempts; attempt++) {
      if (isDeepStrictEqual(outcome.direct, outcome.relayed)) break;
      outcome = await play();
    }
    return outcome;
  }

  /** The same call on both sockets. */
  async both(call: Call): Promise<Both<Answer>> {
    const [direct, relayed] = await Promise.all([
      perform(this.#direct.client, call),
      perform(this.#relayed.client, call),
    ]);
    return { direct, relayed };
  }

  async #play(step: Step, client: RawClient, twin: Twin): Promise<Answer> {
    const { meanwhile } = step;
    const answer = await perform(client, {
      path: step.path,
      headers: step.headers,
      body: step.body(twin),
      meanwhile: meanwhile && ((progress) => meanwhile(client, twin, progress)),
    });
    const [first] = answer.messages;
    if (first !== undefined) step.keep(twin, step.decode(uncompressed(first)));
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#everything[Symbol.asyncDispose]();
  }
}

/** An image of its own for each twin: what removes an image removes it under all its names. */
async function importImage(node: NodeEnvironment, { client, twin }: Actor): Promise<void> {
  const reference = twin.own('image');
  const archive = ociArchive({
    reference,
    files: [{ path: 'name', type: 'file', content: Buffer.from(reference) }],
    config: { Env: [], Cmd: ['/name'], WorkingDir: '/' },
  });
  await writeFile(`/proc/${node.pid}/root/tmp/image.tar`, archive);
  await labExec(LAB, node.name, ['ctr', '-n', 'k8s.io', 'images', 'import', '/tmp/image.tar']);
  const { id, repoDigests } = await vi.waitFor(
    async () => {
      const request = ImageStatusRequest.fromPartial({ image: { image: reference } });
      const { image } = await unary(client, Images.imageStatus, request);
      if (image === undefined) throw new Error('the runtime has not noticed the image yet');
      return image;
    },
    { timeout: 10_000 },
  );
  twin.learn('image id', id);
  for (const digest of repoDigests) twin.learn('image digest', digest.replace(/.*@/, ''));
}
