import { ID_FIELDS } from './methods.ts';
import { fieldsOf, textAt } from './wire.ts';

/** What a call is about, as far as it is known. */
export interface Subject {
  readonly namespace?: string | undefined;
  readonly pod?: string | undefined;
  readonly container?: string | undefined;
  readonly sandboxId?: string | undefined;
  readonly containerId?: string | undefined;
}

/** How a method names what it is about: by an ID, or by the names of what it is to make. */
export type SubjectKind = 'sandbox' | 'container' | 'new sandbox' | 'new container';

/** Asks the runtime: the answer to a request of that method, or undefined when there is none. */
export type Ask = (method: string, request: Uint8Array) => Promise<Uint8Array | undefined>;

interface Pod {
  readonly namespace: string | undefined;
  readonly pod: string | undefined;
}

interface Container {
  readonly sandboxId: string;
  readonly container: string | undefined;
}

/** Field numbers of the CRI (runtime.v1); a test compares them with the upstream definition. */
export const PATHS = {
  /** Of every request with a `container_id` or a `pod_sandbox_id`, and of answers that name what was made. */
  id: [1],
  'RunPodSandboxRequest: name': [1, 1, 1],
  'RunPodSandboxRequest: namespace': [1, 1, 3],
  'CreateContainerRequest: name': [2, 1, 1],
  'PodSandbox: id': [1],
  'PodSandbox: name': [2, 1],
  'PodSandbox: namespace': [2, 3],
  'Container: id': [1],
  'Container: pod_sandbox_id': [2],
  'Container: name': [3, 1],
} as const;
const LIST_ITEMS = 1;

const EMPTY = new Uint8Array();
// More than a node has; what is beyond it is logged by ID alone.
const MOST = 20_000;

/** The kind of a method of the CRI; undefined when it is about nothing in particular. */
export function subjectKindOf(method: string): SubjectKind | undefined {
  if (method === 'RunPodSandbox') return 'new sandbox';
  if (method === 'CreateContainer') return 'new container';
  if (ID_FIELDS[`${method}Request.container_id`] === 'container') return 'container';
  if (ID_FIELDS[`${method}Request.pod_sandbox_id`] === 'sandbox') return 'sandbox';
  return undefined;
}

/**
 * The names of pods and containers by their IDs, for logs: all that the runtime lists when it is connected to, and what
 * is made from then on. What another client of the runtime makes meanwhile is known by its ID alone.
 */
export class Subjects {
  readonly #pods = new Map<string, Pod>();
  readonly #containers = new Map<string, Container>();

  /** Learns all that is there. Never rejects. */
  async learn(ask: Ask): Promise<void> {
    const [pods, containers] = await Promise.all([ask('ListPodSandbox', EMPTY), ask('ListContainers', EMPTY)]);
    for (const one of fieldsOf(pods ?? EMPTY, LIST_ITEMS)) {
      this.#addPod(textAt(one, PATHS['PodSandbox: id']), {
        namespace: textAt(one, PATHS['PodSandbox: namespace']),
        pod: textAt(one, PATHS['PodSandbox: name']),
      });
    }
    for (const one of fieldsOf(containers ?? EMPTY, LIST_ITEMS)) {
      const sandboxId = textAt(one, PATHS['Container: pod_sandbox_id']) ?? '';
      const container = textAt(one, PATHS['Container: name']);
      this.#addContainer(textAt(one, PATHS['Container: id']), { sandboxId, container });
    }
  }

  /** What a call is about, by the beginning of its request and of its answer, if it had one. */
  of(kind: SubjectKind, request: Uint8Array, answer: Uint8Array | undefined): Subject {
    switch (kind) {
      case 'sandbox':
        return this.#ofSandbox(textAt(request, PATHS.id));
      case 'container': {
        const containerId = textAt(request, PATHS.id);
        const known = this.#containers.get(containerId ?? '');
        return { ...this.#ofSandbox(known?.sandboxId), container: known?.container, containerId };
      }
      case 'new sandbox': {
        const namespace = textAt(request, PATHS['RunPodSandboxRequest: namespace']);
        const pod = textAt(request, PATHS['RunPodSandboxRequest: name']);
        const sandboxId = answer && textAt(answer, PATHS.id);
        this.#addPod(sandboxId, { namespace, pod });
        return { namespace, pod, sandboxId };
      }
      case 'new container': {
        const sandboxId = textAt(request, PATHS.id) ?? '';
        const container = textAt(request, PATHS['CreateContainerRequest: name']);
        const containerId = answer && textAt(answer, PATHS.id);
        this.#addContainer(containerId, { sandboxId, container });
        return { ...this.#ofSandbox(sandboxId), container, containerId };
      }
    }
  }

  /** It has been removed. */
  forget({ sandboxId, containerId }: Subject): void {
    if (containerId !== undefined) this.#containers.delete(containerId);
    else if (sandboxId !== undefined) this.#pods.delete(sandboxId);
  }

  #ofSandbox(sandboxId: string | undefined): Subject {
    return { ...this.#pods.get(sandboxId ?? ''), sandboxId };
  }

  #addPod(id: string | undefined, pod: Pod): void {
    if (id !== undefined) keep(this.#pods, id, pod);
  }

  #addContainer(id: string | undefined, container: Container): void {
    if (id !== undefined) keep(this.#containers, id, container);
  }
}

function keep<T>(map: Map<string, T>, id: string, value: T): void {
  map.set(id, value);
  // The oldest goes: it may have been removed while nobody looked.
  for (const oldest of map.keys()) {
    if (map.size <= MOST) return;
    map.delete(oldest);
  }
}
