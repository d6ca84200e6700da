import { readdir, readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { text } from 'node:stream/consumers';
import type { RelayName } from './faults.ts';

/** What a process holds at one moment. */
export interface Sample {
  readonly at: number;
  readonly relay: RelayName;
  readonly pid: number;
  readonly residentBytes: number;
  readonly descriptors: number;
}

/** Undefined when the process has ended. */
export async function sample(relay: RelayName, pid: number): Promise<Sample | undefined> {
  try {
    const [status, descriptors] = await Promise.all([
      readFile(`/proc/${pid}/status`, 'utf8'),
      readdir(`/proc/${pid}/fd`),
    ]);
    const kibibytes = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
    if (!(kibibytes > 0)) return undefined; // a zombie has none
    const residentBytes = kibibytes * 1024;
    return { at: performance.now(), relay, pid, residentBytes, descriptors: descriptors.length };
  } catch {
    return undefined;
  }
}

/** The relay's own counts, from its metrics. */
export async function openInRelay(metricsSocket: string): Promise<{ streams: number; connections: number }> {
  const body = await new Promise<string>((resolve, reject) => {
    const options = { socketPath: metricsSocket, path: '/metrics', agent: false, timeout: 5000 };
    const get = request(options, (response) => text(response).then(resolve, reject));
    get.on('timeout', () => get.destroy(new Error('the metrics did not come within 5 s')));
    get.on('error', reject);
    get.end();
  });
  const value = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(body)?.[1]);
  return { streams: value('gantry_open_streams'), connections: value('gantry_downstream_connections') };
}
