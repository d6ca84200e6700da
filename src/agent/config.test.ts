import { describe, expect, it } from 'vitest';
import { parseConfig } from './config.ts';

const minimal = { node: 'a', peerListen: '10.0.0.1:7440', tls: { ca: '/ca', cert: '/cert', key: '/key' } };
const parse = (change: object) => () => parseConfig(JSON.stringify({ ...minimal, ...change }), 'agent.json');

describe('parseConfig', () => {
  it('fills in the defaults', () => {
    expect(parse({})()).toMatchObject({ node: 'a', agentSocket: '/run/gantry/agent.sock', peers: {} });
  });

  it('names the file and the field that is wrong', () => {
    expect(parse({ node: 1 })).toThrow('agent.json: "node" must be a text');
    expect(parse({ peers: { b: '10.0.0.2' } })).toThrow('the address of b must be HOST:PORT');
    expect(parse({ tls: {} })).toThrow('"tls.ca" must be a path');
    expect(parse({ maxMigrationsIn: 0 })).toThrow('"maxMigrationsIn" must be a whole number from 1');
  });

  it('refuses a field it does not know, because that is a typing error', () => {
    expect(parse({ peer: {} })).toThrow('"peer" is not known');
  });

  it('keeps the state of what has moved away for a day, unless told otherwise', () => {
    expect(parse({})().retention).toEqual({ hours: 24, maxGiB: 0, recipients: [], lookSeconds: 10 });
    expect(parse({ retention: { hours: 0 } })().retention).toMatchObject({ hours: 0, lookSeconds: 10 });
    expect(parse({ retention: { days: 1 } })).toThrow('"retention.days" is not known');
    expect(parse({ retention: { hours: -1 } })).toThrow('"retention.hours" must be a number');
    expect(parse({ retention: { recipients: 'age1' } })).toThrow('"retention.recipients" must be a list');
  });

  it('takes the provider of identity, l2 when none is named', () => {
    expect(parse({})().identity).toEqual({ provider: 'l2' });
    expect(parse({ identity: { provider: 'route' } })().identity).toEqual({ provider: 'route', nextHops: {} });
    const nextHops = { b: ['10.0.0.2', 'fd00::2'] };
    const routed = parse({ peers: { b: '10.0.0.2:7440' }, identity: { provider: 'route', nextHops } })();
    expect(routed.identity).toEqual({ provider: 'route', nextHops });
    const exec = { provider: 'exec', command: ['/usr/local/bin/move-address', '--fast'] };
    expect(parse({ identity: exec })().identity).toEqual(exec);
  });

  it.each([
    ['l2', '"identity" must be an object'],
    [{}, '"identity.provider" must be one of l2, route, exec'],
    [{ provider: 'toString' }, '"identity.provider" must be one of l2, route, exec'],
    [{ provider: 'l2', command: ['/x'] }, '"identity.command" is not known to provider l2'],
    [{ provider: 'exec' }, '"identity.command" must be a list of texts'],
    [{ provider: 'exec', command: ['move'] }, 'an absolute path'],
    [{ provider: 'route', nextHops: { c: ['10.0.0.3'] } }, '"identity.nextHops" must name peers; "c" is none'],
    [{ provider: 'route', nextHops: { b: ['10.0.0.2', '10.0.0.3'] } }, 'one of a family at most'],
    [{ provider: 'route', nextHops: { b: '10.0.0.2' } }, '"identity.nextHops.b" must be a list of IP addresses'],
    [{ provider: 'route', nextHops: ['b'] }, '"identity.nextHops" must name peers'],
  ])('refuses identity %j', (identity, why) => {
    expect(parse({ peers: { b: '10.0.0.2:7440' }, identity })).toThrow(why);
  });

  it('refuses what is not JSON', () => {
    expect(() => parseConfig('{', 'agent.json')).toThrow('not valid JSON');
  });
});
