import { describe, expect, it } from 'vitest';
import { checkLines, dumpOptions, hintFor, parseCriuErrors, parseCrunVersion, parseRuncVersion } from './criu.ts';

describe('parseCriuErrors', () => {
  it("takes the text of CRIU's error lines, of the main process and of restored ones", () => {
    const log = [
      '(00.000012) Version: 4.2.1 (gitid 0)',
      "(00.000013) Error (criu/rlimit.c:17): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted",
      '(00.040101) Error (criu/sk-inet.c:189): inet: Connected TCP socket, consider using --tcp-established option.',
      '(00.050000)      7: Error (criu/files-reg.c:2143): File usr/bin/x has bad size 1 (expect 2)',
      '(00.060000) Warn  (criu/x.c:1): not an error',
    ].join('\n');
    expect(parseCriuErrors(log)).toEqual([
      'inet: Connected TCP socket, consider using --tcp-established option.',
      'File usr/bin/x has bad size 1 (expect 2)',
    ]);
  });

  it('finds nothing in a log without errors', () => {
    expect(parseCriuErrors('(00.1) fine\n')).toEqual([]);
  });
});

it.each([
  ['inet: Connected TCP socket, consider using --tcp-established option.', '--tcp established'],
  ["Can't dump ghost file /tmp/deleted of 2097152 size, increase limit", '--ghost-limit'],
  ['something that nobody knows', 'log folder'],
])('what to do about "%s" is told', (reason, says) => {
  expect(hintFor(reason)).toContain(says);
});

describe('of a dump', () => {
  const fixed = ['checkpoint', '--image-path', '/b/checkpoint', '--work-path', '/b', '--leave-running', '--file-locks'];

  it('that stands alone the kernel is to mark nothing', () => {
    const options = { tcp: 'close', lines: ['tcp-skip-in-flight'] } as const;
    expect(dumpOptions('/b/checkpoint', '/b', options)).toEqual({
      args: fixed,
      lines: ['network-lock skip', 'tcp-close', 'skip-in-flight'],
    });
  });

  it('that others are to follow it is; runc is told of the one before by a relative path', () => {
    const first = { tcp: 'none', tracksMemory: true } as const;
    expect(dumpOptions('/b/checkpoint', '/b', first)).toEqual({
      args: fixed,
      lines: ['network-lock skip', 'track-mem'],
    });
    const next = { tcp: 'established', tracksMemory: true, parent: '../../a/checkpoint' } as const;
    expect(dumpOptions('/b/checkpoint', '/b', next)).toEqual({
      args: [...fixed, '--tcp-established', '--parent-path', '../../a/checkpoint'],
      lines: ['network-lock skip', 'track-mem'],
    });
  });

  it.each(['track-mem', 'prev-images-dir /x', 'auto-dedup'])('nobody else decides on %s', (line) => {
    expect(() => checkLines([line])).toThrow(/Gantry's own/);
  });
});

it.each([
  ['runc version 1.1.15+ds1\ncommit: x\nspec: 1.0.2', { text: '1.1.15+ds1', major: 1, minor: 1 }],
  ['runc version 1.3.6', { text: '1.3.6', major: 1, minor: 3 }],
  ['crun version 1.21', undefined],
])('the version of runc is found in "%s"', (text, version) => {
  expect(parseRuncVersion(text)).toEqual(version);
});

const CRUN = 'crun version 1.28\ncommit: 54f16ffbefcd022bf032af768b5c5ce075c18bfc\nrundir: /run/crun\nspec: 1.0.0\n';

it.each([
  ['+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +CRIU +JSON_C', true],
  ['+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +JSON_C', false],
])('whether crun finds libcriu is told by "%s"', (features, hasCriu) => {
  expect(parseCrunVersion(CRUN + features)).toEqual({ version: '1.28', hasCriu });
});
