import { describe, expect, test } from 'vitest';
import { NamespaceMode } from '../../gen/cri.ts';
import type { Finding } from '../finding.ts';
import { parseLock } from '../proc/locks.ts';
import type { Area } from '../proc/memory.ts';
import { descriptorFindings } from './descriptors.ts';
import { descriptorOf, factsWith, fileOf, nodeWith, processOf, rowOf } from './facts.fixture.ts';
import { fileFindings } from './files.ts';
import { memoryFindings } from './memory.ts';
import { isBefore, missingFeatures, nodeFindings, peerFindings } from './nodes.ts';
import { podFindings } from './pod.ts';
import { processFindings } from './processes.ts';
import { socketFindings } from './sockets.ts';

const ids = (findings: readonly Finding[]) => findings.map(({ severity, id }) => `${severity} ${id}`);
const noIpc = { segments: [], semaphores: 0, queues: 0 };
const mapped: Area = {
  pid: 100,
  start: 0,
  end: 4096,
  kind: 'file',
  writable: true,
  name: '/dev/nvidia0',
  object: '0:6 9',
  inode: 9,
  bytes: 0,
  swapped: 0,
  isOnDemand: false,
  isDevice: true,
};

test('an ordinary container on an ordinary node has no findings', () => {
  const facts = factsWith();
  const pod = { containers: [facts], isManagedByKubelet: false, ipc: noIpc };
  expect([
    ...processFindings(facts),
    ...descriptorFindings(facts),
    ...socketFindings(facts),
    ...fileFindings(facts),
    ...podFindings(pod),
    ...nodeFindings(nodeWith()),
    ...peerFindings(nodeWith(), nodeWith({ node: 'b' }), { images: new Map(), bytes: 1, labels: [] }),
  ]).toEqual([]);
});

describe('processes', () => {
  test('children are the container’s own, and so are orphans that the sandbox has adopted', () => {
    const processes = [processOf(), processOf({ pid: 101, parent: 100 }), processOf({ pid: 102, parent: 80 })];
    expect(processFindings(factsWith({ processes }))).toEqual([]);
    expect(ids(processFindings(factsWith({ processes: [...processes, processOf({ pid: 103, parent: 1 })] })))).toEqual([
      'warm exec-session',
    ]);
  });

  test('state D counts when it lasts', () => {
    const processes = [processOf({ uninterruptible: [100, 105] })];
    expect(processFindings(factsWith({ processes, later: { uninterruptible: [106], rows: [] } }))).toEqual([]);
    expect(ids(processFindings(factsWith({ processes, later: { uninterruptible: [105], rows: [] } })))).toEqual([
      'cold uninterruptible-task',
    ]);
  });

  test('a terminal of the container’s own is none of anybody’s business', () => {
    const descriptors = [descriptorOf('/dev/pts/0', { file: fileOf({ kind: 'device', device: '136:0', on: '0:50' }) })];
    const mounts = [{ id: 1, device: '0:50', mountPoint: '/dev/pts', fileSystem: 'devpts' }];
    expect(processFindings(factsWith({ descriptors, mounts }))).toEqual([]);
    expect(ids(processFindings(factsWith({ descriptors })))).toEqual(['cold terminal']);
  });

  test('labels are told, unless they confine nothing', () => {
    const labelled = (label: string) => processFindings(factsWith({ processes: [processOf({ label })] }));
    expect(labelled('unconfined')).toEqual([]);
    expect(labelled('system_u:system_r:container_t:s0:c1,c2')).toMatchObject([
      { id: 'security-label', severity: 'hot' },
    ]);
  });
});

describe('descriptors', () => {
  test.each([
    ['anon_inode:[eventfd]', []],
    ['anon_inode:[pidfd]', []],
    ['anon_inode:bpf-map', []],
    ['anon_inode:bpf-prog', ['cold bpf']],
    ['anon_inode:bpf_link', ['cold bpf']],
    ['anon_inode:[perf_event]', ['cold perf-event']],
    ['anon_inode:[fanotify]', ['warm fanotify']],
    ['anon_inode:kvm-vm', ['cold unknown-descriptor']],
    ['anon_inode:[landlock-ruleset]', ['cold unknown-descriptor']],
    ['/secretmem (deleted)', ['cold unknown-descriptor']],
  ])('%s', (link, expected) => {
    expect(ids(descriptorFindings(factsWith({ descriptors: [descriptorOf(link)] })))).toEqual(expected);
  });

  test.each([
    ['1:3', []],
    ['1:9', []],
    ['5:0', []],
    ['136:3', []],
    ['1:11', ['no device-open']],
    ['195:0', ['no device-open']],
  ])('a device %s', (device, expected) => {
    const descriptors = [descriptorOf('/dev/x', { file: fileOf({ kind: 'device', device }) })];
    expect(ids(descriptorFindings(factsWith({ descriptors })))).toEqual(expected);
  });

  test('memory of a device counts also when it is open no more', () => {
    expect(ids(descriptorFindings(factsWith({ areas: [mapped] })))).toEqual(['no device-mapped']);
  });

  test('a deleted file counts from more than a mebibyte on; memory with the name of a file does not', () => {
    const open = (link: string, bytes: number, links = 0) =>
      ids(descriptorFindings(factsWith({ descriptors: [descriptorOf(link, { file: fileOf({ links, bytes }) })] })));
    expect(open('/log (deleted)', 1024 * 1024)).toEqual([]);
    expect(open('/log (deleted)', 1024 * 1024 + 512)).toEqual(['cold deleted-file']);
    expect(open('/log (deleted)', 1, 1)).toEqual(['cold deleted-name']);
    expect(open('/memfd:heap (deleted)', 1e9)).toEqual([]);
  });
});

describe('sockets', () => {
  const own = [descriptorOf('socket:[7]')];

  test('those of other containers of the network namespace do not count', () => {
    expect(socketFindings(factsWith({ descriptors: own, rows: [rowOf('raw', 8)] }))).toEqual([]);
    expect(ids(socketFindings(factsWith({ descriptors: own, rows: [rowOf('raw', 7)] })))).toEqual(['warm raw-socket']);
  });

  test('sockets are told by their protocol', () => {
    const named = (protocol: string) => ids(socketFindings(factsWith({ named: [{ pid: 100, fd: '3', protocol }] })));
    expect(['TCP', 'UDPv6', 'NETLINK', 'UNIX-STREAM'].flatMap(named)).toEqual([]);
    expect(['MPTCP', 'MPTCPv6', 'AF_VSOCK', 'ALG', ''].flatMap(named)).toEqual([
      ...['cold mptcp-socket', 'cold mptcp-socket', 'cold other-socket', 'cold other-socket', 'warm unknown-socket'],
    ]);
  });

  test('a backlog of one moment is warm, a lasting one cold', () => {
    const busy = [rowOf('tcp', 7, { state: 'LISTEN', queued: 3, local: '0.0.0.0:80' })];
    const idle = [rowOf('tcp', 7, { state: 'LISTEN' })];
    const at = (rows: typeof busy, later: typeof busy) =>
      ids(socketFindings(factsWith({ descriptors: own, rows, later: { uninterruptible: [], rows: later } })));
    expect([at(idle, idle), at(busy, idle), at(idle, busy), at(busy, busy)]).toEqual([
      ...[[], ['warm connection-backlog'], ['warm connection-backlog'], ['cold connection-backlog']],
    ]);
  });

  test('a unix socket between processes of the container is no external one', () => {
    const rows = [rowOf('unix', 7)];
    const to = (inode: number) =>
      ids(
        socketFindings(
          factsWith({
            descriptors: [...own, descriptorOf('socket:[9]')],
            rows,
            unixPeers: new Map([[7, { inode, path: '/s' }]]),
          }),
        ),
      );
    expect([to(0), to(9), to(10)]).toEqual([[], [], ['cold external-unix-socket']]);
  });

  test('a connection over loopback between two containers is a remark of the pod', () => {
    const rows = [
      rowOf('tcp', 7, { state: 'ESTABLISHED', local: '127.0.0.1:80', remote: '127.0.0.1:5000' }),
      rowOf('tcp', 9, { state: 'ESTABLISHED', local: '127.0.0.1:5000', remote: '127.0.0.1:80' }),
    ];
    const containers = [
      factsWith({ name: 'one', rows, descriptors: own }),
      factsWith({ name: 'two', rows, descriptors: [descriptorOf('socket:[9]')] }),
    ];
    const findings = podFindings({ containers, isManagedByKubelet: false, ipc: noIpc });
    expect(findings).toMatchObject([
      { id: 'loopback-between-containers', seen: 'one and two (127.0.0.1:80, 127.0.0.1:5000)' },
    ]);
  });
});

describe('files', () => {
  const lock = (pid: number) => `1: FLOCK  ADVISORY  READ ${pid} fe:01:77 0 EOF`;

  test('a lock is shared when somebody outside holds it, or waits for it', () => {
    const descriptors = [descriptorOf('/data/lock', { file: fileOf({ locks: [lock(100)] }) })];
    const with_ = (...lines: string[]) =>
      ids(fileFindings(factsWith({ descriptors, locks: lines.flatMap((line) => parseLock(line) ?? []) })));
    expect(with_(lock(100))).toEqual(['hot file-lock']);
    expect(with_(lock(100), '1: -> FLOCK  ADVISORY  WRITE 555 fe:01:77 0 EOF')).toEqual(['warm shared-lock']);
    expect(with_(lock(100), '2: POSIX  ADVISORY  WRITE 555 fe:01:78 0 EOF')).toEqual(['hot file-lock']);
  });

  test('a folder of the node is worse when a file in it is open', () => {
    const volumes = [{ kind: 'host-path' as const, hostPath: '/srv', containerPath: '/data', readOnly: false }];
    const mounts = [{ id: 5, device: '8:1', mountPoint: '/data', fileSystem: 'ext4' }];
    const descriptors = [descriptorOf('/data/file', { file: fileOf({ mountId: 5 }) })];
    expect(ids(fileFindings(factsWith({ volumes, mounts })))).toEqual(['warm host-path']);
    expect(ids(fileFindings(factsWith({ volumes, mounts, descriptors })))).toEqual(['cold host-path']);
  });
});

describe('the pod', () => {
  test('namespaces that are the node’s count, whatever the configuration says', () => {
    const { namespaces } = processOf();
    const shared = processOf({ namespaces: { ...namespaces, net: 'n:[1]', user: 'u:[2]' } });
    const pod = { isManagedByKubelet: false, ipc: noIpc, containers: [factsWith({ processes: [shared] })] };
    expect(ids(podFindings(pod))).toEqual(['no host-network', 'cold user-namespace']);
  });

  test('other runtimes, kubelet and queues between containers are told', () => {
    const modes = { network: NamespaceMode.POD, ipc: NamespaceMode.POD, pid: NamespaceMode.CONTAINER };
    const other = factsWith({ runtimeHandler: 'runsc', modes });
    const findings = podFindings({
      containers: [other, other],
      isManagedByKubelet: true,
      ipc: { ...noIpc, queues: 2 },
    });
    expect(ids(findings)).toEqual(['cold runtime', 'hot managed-by-kubelet', 'warm shared-ipc']);
  });
});

test('processes of others are told where the agent may not ask for their limits', () => {
  const processes = [processOf({ ids: [0, 0, 0, 0, 0, 0, 0, 7] })];
  expect(ids(processFindings(factsWith({ processes })))).toEqual(['cold limits-of-others']);
  expect(ids(processFindings(factsWith({ processes, capabilities: 1n << 24n })))).toEqual([]);
  expect(ids(processFindings(factsWith({ processes: [processOf()] })))).toEqual([]);
});

describe('nodes', () => {
  test.each([
    ['', '6.18.44', 'cold criu-missing'],
    ['4.1.1', '6.18.44-x', 'cold criu-too-old'],
    ['4.1.1', '6.12.9', undefined],
    ['3.17.1', '6.13.0', 'cold criu-too-old'],
    ['3.17.1', '6.1.0', undefined],
    ['4.2', '6.16.1', undefined],
  ])('CRIU "%s" on Linux %s: %s', (criu, kernel, expected) => {
    expect(ids(nodeFindings(nodeWith({ criu, kernel })))).toEqual(expected === undefined ? [] : [expected]);
  });

  test('what a kernel lacks', () => {
    const node = nodeWith({ hasCheckpointRestore: false, hasUserfaultfd: false, hasSoftDirty: false });
    expect(ids(nodeFindings(node))).toEqual([
      'cold kernel-without-checkpoint',
      'hot kernel-without-userfaultfd',
      'hot kernel-without-soft-dirty',
    ]);
  });

  test('configuration of CRIU is a remark, unless it closes connections', () => {
    const with_ = (line: string) =>
      ids(nodeFindings(nodeWith({ criuConfiguration: { '/etc/criu/runc.conf': [line] } })));
    expect([with_('log-level 4'), with_('tcp-close')]).toEqual([
      ['hot criu-configuration'],
      ['warm criu-configuration'],
    ]);
  });

  test('a peer is compared with this node', () => {
    const needs = { images: new Map([['sha256:1', 'redis:8']]), bytes: 100, labels: ['docker-default (enforce)'] };
    const here = nodeWith({ lsm: ['apparmor'], kernel: '6.18.1' });
    const there = nodeWith({
      node: 'b',
      criu: '4.1.1',
      cpuFlags: ['fpu', 'lm', 'sse2'],
      kernel: '6.12.0',
      missingImages: ['sha256:1', 'sha256:2'],
      freeBytes: 99,
    });
    expect(ids(peerFindings(here, there, needs))).toEqual([
      ...[
        'cold peer-cpu',
        'cold peer-criu-older',
        'hot peer-kernel-older',
        'cold peer-image-missing',
        'cold peer-space',
        'cold peer-security-module',
      ],
    ]);
    const image = peerFindings(here, there, needs).find(({ id }) => id === 'peer-image-missing');
    expect(image?.seen).toBe('b does not have redis:8, sha256:2');
    expect(ids(peerFindings(here, { ...here, architecture: 'arm64' }, needs))).toEqual(['cold peer-architecture']);
    expect(ids(peerFindings(here, { ...here, criu: '' }, needs))).toEqual(['cold peer-criu-missing']);
  });

  test('of a processor’s flags those count that programs choose their code by', () => {
    expect(missingFeatures(['fpu', 'lm', 'avx512f', 'nopl', 'ibrs'], ['fpu', 'lm'])).toEqual(['avx512f']);
    expect(missingFeatures(['fp', 'asimd', 'sve'], ['fp', 'asimd'])).toEqual(['sve']);
  });

  test('versions are compared by their numbers', () => {
    expect([
      isBefore('4.2.1', '4.2'),
      isBefore('4.2', '4.2.1'),
      isBefore('6.9', '6.18'),
      isBefore('6.18.44-fc', '6.16'),
    ]).toEqual([false, true, true, false]);
  });
});

test('memory that is dumped while frozen is a remark from 50 MB on', () => {
  const bytes = { lazy: 1e9, shared: 30e6, copied: 0, locked: 0, huge: 0 };
  expect(memoryFindings({ bytes, swapped: 0 })).toEqual([]);
  const findings = memoryFindings({ bytes: { ...bytes, locked: 30e6 }, swapped: 4096 });
  expect(findings.map(({ id, seen }) => [id, seen])).toEqual([
    ['eager-memory', '28.6 MiB shared, 28.6 MiB locked'],
    ['swapped-memory', '0.0 MiB'],
  ]);
});
