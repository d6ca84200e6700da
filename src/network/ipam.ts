import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exists, writeDurably } from '../durable.ts';
import type { Address } from './address.ts';

/*
 * CNI's host-local plugin keeps one file per reserved address, named by it, that holds the sandbox's ID and the
 * interface (plugins/ipam/host-local/backend/disk). CNI DEL frees the files that hold the sandbox's ID.
 */

/**
 * Keeps addresses reserved here when their sandbox goes, because the pod goes on using them on another node: re-keys
 * the reservation from the sandbox to the migration. An address that is not reserved here is left alone.
 */
export async function keepReserved(ipamDir: string, addresses: readonly Address[], operation: string): Promise<void> {
  await rekey(ipamDir, addresses, () => `gantry-${operation}`);
}

/** Gives addresses that come home to the sandbox that now has them, so that they are freed with it. */
export async function giveToSandbox(ipamDir: string, addresses: readonly Address[], sandbox: string): Promise<void> {
  await rekey(ipamDir, addresses, (owner) => (owner.startsWith('gantry-') ? sandbox : undefined));
}

async function rekey(ipamDir: string, addresses: readonly Address[], ownerFor: (owner: string) => string | undefined) {
  if (ipamDir === '') return;
  for (const { local } of addresses) {
    const file = join(ipamDir, local);
    if (!(await exists(file))) continue;
    const [owner = '', device = 'eth0'] = (await readFile(file, 'utf8')).trim().split(/\s+/);
    const next = ownerFor(owner);
    if (next !== undefined) await writeDurably(file, `${next}\r\n${device}`, 0o644);
  }
}
