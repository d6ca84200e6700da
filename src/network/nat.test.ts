import { describe, expect, it } from 'vitest';
import { PodSandboxConfig, Protocol } from '../gen/cri.ts';
import { expand, parseTracked, translated, warningsOf } from './nat.ts';

const PLAIN =
  'ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.254 dst=10.0.1.5 sport=40000 dport=6379 src=10.0.1.5 dst=10.0.0.254 sport=6379 dport=40000 [ASSURED] mark=0 zone=0 use=2';
const HOST_PORT =
  'ipv4     2 tcp      6 431999 ESTABLISHED src=192.0.2.9 dst=192.0.2.1 sport=40001 dport=8080 src=10.0.1.5 dst=192.0.2.9 sport=80 dport=40001 [ASSURED] mark=0 zone=0 use=2';
const MASQUERADE =
  'ipv4     2 udp      17 29 src=10.0.1.5 dst=198.51.100.7 sport=5353 dport=53 src=198.51.100.7 dst=192.0.2.1 sport=53 dport=5353 mark=0 zone=0 use=2';
const OTHERS =
  'ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.1.6 dst=198.51.100.7 sport=5353 dport=53 src=198.51.100.7 dst=192.0.2.1 sport=53 dport=5353 mark=0 zone=0 use=2';
const CLOSED = HOST_PORT.replace('ESTABLISHED', 'TIME_WAIT');
const PING =
  'ipv4     2 icmp     1 29 src=10.0.1.5 dst=10.0.0.1 type=8 code=0 id=1 src=10.0.0.1 dst=10.0.1.5 type=0 code=0 id=1 mark=0 zone=0 use=2';

const none = PodSandboxConfig.fromPartial({});
const warn = (lines: string[], config = none) =>
  warningsOf(config, translated(lines.flatMap(parseTracked), ['10.0.1.5']));

describe('warnings of what the node translates', () => {
  it("says nothing of connections under the pod's own address, of other pods or of what is over", () => {
    expect(warn([PLAIN, OTHERS, CLOSED, PING])).toEqual([]);
  });

  it('names both ends of connections through a host port and of masqueraded ones', () => {
    expect(warn([PLAIN, HOST_PORT, MASQUERADE])).toEqual([
      'this node translates tcp 192.0.2.9:40001 → 192.0.2.1:8080 (beyond it 192.0.2.9:40001 → 10.0.1.5:80): the connection does not move',
      'this node translates udp 10.0.1.5:5353 → 198.51.100.7:53 (beyond it 192.0.2.1:5353 → 198.51.100.7:53): the connection does not move',
    ]);
  });

  it('counts what there is more of', () => {
    expect(warn(Array.from({ length: 8 }, () => HOST_PORT)).at(-1)).toBe(
      'this node translates 3 more connections of the pod: they do not move',
    );
  });

  it('names host ports of the configuration, also without a connection', () => {
    const portMappings = [
      { containerPort: 80, hostPort: 8080, protocol: Protocol.TCP, hostIp: '' },
      { containerPort: 53, hostPort: 53, protocol: Protocol.UDP, hostIp: '192.0.2.1' },
      { containerPort: 443, hostPort: 0, protocol: Protocol.TCP, hostIp: '' },
    ];
    expect(warn([], PodSandboxConfig.fromPartial({ portMappings }))).toEqual([
      expect.stringMatching(/^host port 8080\/tcp \(port 80 of the pod\): connections through it end/),
      expect.stringMatching(/^host port 192\.0\.2\.1:53\/udp \(port 53 of the pod\)/),
    ]);
  });
});

it('writes IPv6 addresses as connection tracking does', () => {
  expect(expand('fd67:1::2')).toBe('fd67:0001:0000:0000:0000:0000:0000:0002');
  expect(expand('::1')).toBe('0000:0000:0000:0000:0000:0000:0000:0001');
  expect(expand('10.0.0.1')).toBe('10.0.0.1');
});
