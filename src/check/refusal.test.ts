import { expect, test } from 'vitest';
import type { Finding, Verdict } from './finding.ts';
import { unexplained } from './refusal.ts';

const finding = (severity: Verdict): Finding => ({ id: 'x', severity, seen: '', why: '', todo: '' });
const told = (checkpoint: string, migrate: string, ...severities: Verdict[]) =>
  unexplained(severities.map(finding), { checkpoint, migrate, isManaged: false }).map(
    ({ id, severity, seen }) => `${severity} ${id}: ${seen}`,
  );

test('what Gantry itself would refuse is told, unless another finding says as much', () => {
  expect(told('', '')).toEqual([]);
  expect(told('no volumes', 'no volumes', 'warm')).toEqual(['cold refused-by-checkpoint: no volumes']);
  expect(told('no volumes', 'no volumes', 'cold')).toEqual([]);
  expect(told('', 'two containers', 'hot')).toEqual(['warm refused-by-migrate: two containers']);
  expect(told('', 'two containers', 'warm')).toEqual(['warm refused-by-migrate: two containers']);
  expect(told('', 'two containers', 'no')).toEqual([]);
});
