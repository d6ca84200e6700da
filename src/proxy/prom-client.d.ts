// The parts of prom-client that metrics.ts and histogram.ts use, one by one. Its index also loads a client of push
// gateways, an aggregator for clusters and observers of the process: 9 MiB of Node's own modules.
declare module 'prom-client/lib/counter.js' {
  export { Counter as default } from 'prom-client';
}
declare module 'prom-client/lib/gauge.js' {
  export { Gauge as default } from 'prom-client';
}
declare module 'prom-client/lib/histogram.js' {
  export { Histogram as default } from 'prom-client';
}
declare module 'prom-client/lib/registry.js' {
  export { Registry as default } from 'prom-client';
}
