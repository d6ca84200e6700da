import { expect, it } from 'vitest';
import { subnetOf } from './route.ts';

const subnet = { dst: '10.1.2.0/24', dev: 'cni0', protocol: 'kernel' };
const others = { dst: '10.1.0.0/16', dev: 'uplink', gateway: '10.0.0.1' };
const own = { dst: '10.1.2.5', dev: 'uplink', gateway: '10.0.0.2', protocol: '199' };
const everything = { dst: 'default', dev: 'uplink' };

it("finds the device of an address' subnet, whatever routes of gantry's own there are", () => {
  expect(subnetOf([everything, others, subnet])).toBe('cni0');
  expect(subnetOf([own, subnet, everything])).toBe('cni0');
});

it('finds none for a subnet that is behind a gateway, or known to nobody', () => {
  expect(subnetOf([everything, others])).toBeUndefined();
  expect(subnetOf([everything])).toBeUndefined();
  expect(subnetOf([own])).toBeUndefined();
});

it('passes over a subnet when somebody else has a host route into it', () => {
  expect(subnetOf([subnet, { ...own, protocol: 'static' }])).toBeUndefined();
});
