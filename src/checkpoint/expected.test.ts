import { describe, expect, test } from 'vitest';
import { ContainerConfig, NamespaceMode } from '../gen/cri.ts';
import { checkExpected, pairUp } from './expected.ts';

type Fields = Parameters<typeof ContainerConfig.fromPartial>[0];

const config = (fields: Fields = {}): ContainerConfig =>
  ContainerConfig.fromPartial({
    metadata: { name: 'main', attempt: 0 },
    command: ['redis-server'],
    args: ['--port', '1'],
    workingDir: '/data',
    envs: [
      { key: 'A', value: Buffer.from('a') },
      { key: 'PASSWORD', value: Buffer.from('secret') },
    ],
    mounts: [{ containerPath: '/data', hostPath: '/here' }],
    linux: {
      securityContext: {
        namespaceOptions: { pid: NamespaceMode.CONTAINER },
        runAsUser: { value: 7n },
        supplementalGroups: [1n, 2n],
      },
    },
    ...fields,
  });
const named = (name: string) => config({ metadata: { name, attempt: 0 } });

describe('containers of a checkpoint and their configurations', () => {
  const saved = [{ name: 'b' }, { name: 'a' }];

  test('are found by their names, in the order of the checkpoint', () => {
    const pairs = pairUp(saved, [named('a'), named('b')]);
    expect(pairs.map(({ saved: { name }, config }) => [name, config.metadata?.name])).toEqual([
      ['b', 'b'],
      ['a', 'a'],
    ]);
  });

  test.each([
    ['none', []],
    ['too few', [named('a')]],
    ['too many', [named('a'), named('b'), named('c')]],
    ['others', [named('a'), named('c')]],
    ['one twice', [named('a'), named('b'), named('b')]],
    ['one without a name', [named('a'), named('')]],
  ])('are refused when there are %s', (_what, configs) => {
    expect(() => pairUp(saved, configs)).toThrow(/the checkpoint has the containers a, b, and the request configures/);
  });
});

describe('what a configuration says of a process', () => {
  const differences = (now: ContainerConfig): string => {
    try {
      checkExpected({ name: 'main', config: config() }, now);
      return '';
    } catch (error) {
      return String(error);
    }
  };

  test('may be the same, in another order where that means nothing, elsewhere on the node and with more mounts', () => {
    const now = config({
      envs: config().envs.toReversed(),
      mounts: [
        { containerPath: '/data', hostPath: '/there' },
        { containerPath: '/more', hostPath: '/more' },
      ],
      labels: { other: 'label' },
    });
    const security = now.linux?.securityContext;
    if (security !== undefined) security.supplementalGroups = [2n, 1n];
    expect(differences(now)).toBe('');
  });

  test.each<[string, Fields]>([
    ['another command', { command: ['sh'] }],
    ['other arguments', { args: ['--port', '2'] }],
    ['another working directory', { workingDir: '/' }],
    ['another value of B', { envs: [...config().envs, { key: 'B', value: Buffer.from('') }] }],
    ['another value of PASSWORD', { envs: config().envs.slice(0, 1) }],
    ['another user or group', { linux: { securityContext: { namespaceOptions: { pid: 1 } } } }],
    ['no PID namespace of its own', { linux: { securityContext: { namespaceOptions: { pid: NamespaceMode.POD } } } }],
    ['a terminal', { tty: true }],
    ['nothing mounted at /data', { mounts: [] }],
  ])('is refused with %s', (what, fields) => {
    expect(differences(config(fields))).toContain(what);
    expect(differences(config(fields))).not.toContain('secret');
  });
});
