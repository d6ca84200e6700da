import { describe, expect, it } from 'vitest';
import { ContainerConfig, PodSandboxConfig } from '../gen/cri.ts';
import { configFromInfo } from './verbose-info.ts';

describe('configFromInfo', () => {
  it("reads Go's JSON of a container configuration: field names, numbers, maps as they are", () => {
    const config = configFromInfo(
      {
        config: {
          metadata: { name: 'redis', attempt: 2 },
          log_path: 'redis/2.log',
          labels: { 'io.kubernetes.pod.name': 'x', snake_case_key: 'kept' },
          linux: {
            resources: { memory_limit_in_bytes: 1073741824 },
            security_context: { namespace_options: { pid: 1 } },
          },
        },
      },
      ContainerConfig,
    );
    expect(config.metadata).toMatchObject({ name: 'redis', attempt: 2 });
    expect(config.logPath).toBe('redis/2.log');
    expect(config.labels).toEqual({ 'io.kubernetes.pod.name': 'x', snake_case_key: 'kept' });
    expect(config.linux?.resources?.memoryLimitInBytes).toBe(1073741824n);
    expect(config.linux?.securityContext?.namespaceOptions?.pid).toBe(1);
  });

  it('takes a plain variable as it is, also one that would be valid base64', () => {
    const info = { config: { envs: [{ key: 'A', value: 'abcd' }] }, runtimeSpec: { process: { env: ['A=abcd'] } } };
    expect(configFromInfo(info, ContainerConfig).envs[0]?.value.toString()).toBe('abcd');
  });

  it('decodes a variable that a newer runtime tells in base64', () => {
    const value = Buffer.from('hello world').toString('base64');
    const info = { config: { envs: [{ key: 'A', value }] }, runtimeSpec: { process: { env: ['A=hello world'] } } };
    expect(configFromInfo(info, ContainerConfig).envs[0]?.value.toString()).toBe('hello world');
  });

  it('reads a sandbox configuration', () => {
    const config = configFromInfo({ config: { hostname: 'h', log_directory: '/var/log/pods/x' } }, PodSandboxConfig);
    expect(config).toMatchObject({ hostname: 'h', logDirectory: '/var/log/pods/x' });
  });
});
