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

  it('refuses what is not JSON', () => {
    expect(() => parseConfig('{', 'agent.json')).toThrow('not valid JSON');
  });
});
