import { describe, expect, it } from 'vitest';
import { parseUpperFolder } from './containerd.ts';

describe('parseUpperFolder', () => {
  it('finds the upper folder among the options of an overlay mount', () => {
    const text =
      'mount -t overlay overlay /x -o index=off,workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/3/fs:/s/1/fs\n';
    expect(parseUpperFolder(text)).toBe('/s/9/fs');
  });

  it('says so when there is none (a read-only or bind mount)', () => {
    expect(parseUpperFolder('mount -t bind /s/1/fs /x -o ro,rbind')).toBeUndefined();
  });
});
