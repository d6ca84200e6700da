import { describe, expect, it } from 'vitest';
import { parseFreezer } from './cgroup.ts';

describe('parseFreezer', () => {
  it('takes the freezer hierarchy of cgroup v1, also when the unified one is there', () => {
    const lines = ['9:freezer:/k8s.io/abc', '3:memory:/k8s.io/abc', '0::/other'];
    expect(parseFreezer(lines)).toEqual({ version: 1, file: '/sys/fs/cgroup/freezer/k8s.io/abc/freezer.state' });
  });

  it('keeps a colon that belongs to the path (systemd names such as slice:cri-containerd:ID)', () => {
    const freezer = parseFreezer(['9:freezer:/kubepods.slice:cri-containerd:abc']);
    expect(freezer.file).toBe('/sys/fs/cgroup/freezer/kubepods.slice:cri-containerd:abc/freezer.state');
  });

  it('takes the unified hierarchy where nothing else can freeze', () => {
    expect(parseFreezer(['0::/kubepods/abc'])).toEqual({
      version: 2,
      file: '/sys/fs/cgroup/kubepods/abc/cgroup.freeze',
    });
  });

  it('refuses a process that is in no freezer at all', () => {
    expect(() => parseFreezer(['3:memory:/x'])).toThrow('no cgroup that can be frozen');
  });
});
