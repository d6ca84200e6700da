import { expect, test } from 'vitest';
import { ContainerConfig } from '../gen/cri.ts';
import { checkSameRuntime } from './preflight.ts';

const plain = ContainerConfig.fromPartial({});
const hiding = ContainerConfig.fromPartial({ linux: { securityContext: { maskedPaths: ['/proc/acpi'] } } });

test.each([
  ['runc', 'runc', hiding],
  ['', 'runc', hiding],
  ['crun', 'crun', hiding],
  ['crun', 'runc', plain],
  ['', 'crun', plain],
] as const)('a checkpoint of handler "%s" is for %s', (handler, runtime, config) => {
  expect(() => checkSameRuntime(handler, runtime, config)).not.toThrow();
});

test.each([
  ['crun', 'runc'],
  ['runc', 'crun'],
  ['', 'crun'],
] as const)('one of handler "%s" with hidden paths is not for %s', (handler, runtime) => {
  expect(() => checkSameRuntime(handler, runtime, hiding)).toThrow(/hidden paths, is not for/);
});
