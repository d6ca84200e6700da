import { type Kind, METHODS } from './methods.ts';
import { type SubjectKind, subjectKindOf } from './subjects.ts';

/** A method as people, logs and metrics call it. There is one object for each, so it can be compared and be a key. */
export interface MethodName {
  /** "ListContainers" for the CRI's own, "SERVICE/METHOD" for others, "other" when there are too many of those. */
  readonly label: string;
  /** Undefined for a method that the table does not know. */
  readonly kind: Kind | undefined;
  /** How a call of it says what it is about, if it is about one thing. */
  readonly subject?: SubjectKind | undefined;
}

// A client can make up any number of paths; those it makes up must not use up the names of methods yet to come.
const UNKNOWN_METHODS = 100;
const FOREIGN_PATHS = 50;

const CRI = /^\/runtime\.v1(?:alpha2)?\.(?:RuntimeService|ImageService)\/([^/]+)$/;
const API_VERSIONS = ['runtime.v1', 'runtime.v1alpha2'];

/** Names for paths, of a bounded number. */
export class MethodNames {
  readonly #names = new Map<string, MethodName>();
  readonly #other: MethodName = { label: 'other', kind: undefined };
  #unknown = 0;
  #foreign = 0;

  constructor() {
    for (const [label, { service, kind }] of Object.entries(METHODS)) {
      const name: MethodName = { label, kind, subject: subjectKindOf(label) };
      for (const version of API_VERSIONS) this.#names.set(`/${version}.${service}/${label}`, name);
    }
  }

  of(path: string): MethodName {
    return this.#names.get(path) ?? this.#add(path);
  }

  #add(path: string): MethodName {
    const method = CRI.exec(path)?.[1];
    if (method === undefined ? this.#foreign >= FOREIGN_PATHS : this.#unknown >= UNKNOWN_METHODS) return this.#other;
    if (method === undefined) this.#foreign += 1;
    else this.#unknown += 1;
    const name: MethodName = { label: (method ?? path.replace(/^\//, '')).slice(0, 200), kind: undefined };
    this.#names.set(path, name);
    return name;
  }
}
