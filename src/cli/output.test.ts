import { describe, expect, it } from 'vitest';
import { formatJson, formatTable } from './output.ts';

describe('formatTable', () => {
  it('aligns columns and leaves no space at the end of a line', () => {
    const rows = [
      ['NAME', 'STATE'],
      ['a-long-name', 'up'],
      ['b', 'running'],
    ];
    expect(formatTable(rows)).toBe('NAME         STATE\na-long-name  up\nb            running');
  });
});

describe('formatJson', () => {
  it('prints 64-bit numbers as numbers and leaves out unknown fields', () => {
    expect(JSON.parse(formatJson({ bytes: 12n, _unknownFields: { 1: [] } }))).toEqual({ bytes: 12 });
  });
});
