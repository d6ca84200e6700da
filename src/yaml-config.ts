import { isMap, isScalar, LineCounter, type ParsedNode, parseDocument } from 'yaml';
import type { z } from 'zod';

/** A mistake in a configuration, and where: "FILE:LINE:COLUMN: field", or a flag. */
export interface Problem {
  where: string;
  message: string;
}

export interface YamlConfig<T> {
  /** Undefined when there are problems. */
  value: T | undefined;
  problems: Problem[];
  /** The line of the key at the end of a path. */
  lineOf(path: readonly PropertyKey[]): number;
}

/** Reads YAML that must be as `schema` says. All mistakes are found at once, in the order in which they stand there. */
export function parseYamlConfig<T>(text: string, name: string, schema: z.ZodType<T>): YamlConfig<T> {
  const counter = new LineCounter();
  const document = parseDocument(text, { lineCounter: counter });
  const at = (offset: number): string => {
    const { line, col } = counter.linePos(offset);
    return `${name}:${line}:${col}:`;
  };
  const lineOf = (path: readonly PropertyKey[]): number => counter.linePos(offsetOf(document.contents, path)).line;
  if (document.errors.length > 0) {
    const problems = document.errors.map(({ pos, message }) => ({
      where: at(pos[0]),
      message: message.split(/ at line \d+|\n/)[0] ?? message,
    }));
    return { value: undefined, problems, lineOf };
  }
  const checked = schema.safeParse(document.toJS() ?? {});
  if (checked.success) return { value: checked.data, problems: [], lineOf };
  const problems = checked.error.issues
    .flatMap(mistakes)
    .map(({ path, message }) => ({ path, message, offset: offsetOf(document.contents, path) }))
    .toSorted((a, b) => a.offset - b.offset)
    .map(({ path, message, offset }) => ({ where: [at(offset), path.join('.')].join(' ').trimEnd(), message }));
  return { value: undefined, problems, lineOf };
}

function mistakes(issue: z.core.$ZodIssue): { path: PropertyKey[]; message: string }[] {
  if (issue.code !== 'unrecognized_keys') return [{ path: issue.path, message: issue.message }];
  return issue.keys.map((key) => ({ path: [...issue.path, key], message: 'is not known' }));
}

/** Where the key at the end of `path` stands; of a path that leads nowhere, where its last known part does. */
function offsetOf(root: ParsedNode | null, path: readonly PropertyKey[]): number {
  let node: unknown = root;
  let offset = root?.range[0] ?? 0;
  for (const name of path) {
    if (!isMap<ParsedNode, ParsedNode | null>(node)) break;
    const pair = node.items.find(({ key }) => isScalar(key) && key.value === name);
    if (pair === undefined) break;
    offset = pair.key.range[0];
    node = pair.value;
  }
  return offset;
}
