import { RuntimeServiceService as Runtime } from '../../../src/gen/cri.ts';
import { one } from './step.ts';

/** The runtime as a whole. */
export const runtimeSteps = [
  one('Version', Runtime.version, () => ({ version: '' }), { sameBytes: true }),
  one('Version, of an older kubelet', Runtime.version, () => ({ version: 'v1alpha2' }), { sameBytes: true }),
  one('Status', Runtime.status, () => ({ verbose: false }), { sameBytes: true }),
  one('Status, verbose', Runtime.status, () => ({ verbose: true })),
  one('RuntimeConfig', Runtime.runtimeConfig, () => ({}), { since: 'forky', sameBytes: true }),
  one('UpdateRuntimeConfig', Runtime.updateRuntimeConfig, () => ({
    runtimeConfig: { networkConfig: { podCidr: '10.1.0.0/16' } },
  })),
  one('ListMetricDescriptors', Runtime.listMetricDescriptors, () => ({}), { since: 'later' }),
];
