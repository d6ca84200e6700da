import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exists, removeDurably, writeDurably } from '../durable.ts';
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

/** Whether an address is still reserved for a migration: not, once it came home or was released. */
export async function isReserved(ipamDir: string, addresses: readonly Address[], operation: string): Promise<boolean> {
  return (await reservedFor(ipamDir, addresses, operation)).length > 0;
}

/** Frees addresses that were kept for a migration. Those that have come home stay. */
export async function release(ipamDir: string, addresses: readonly Address[], operation: string): Promise<void> {
  for (const file of await reservedFor(ipamDir, addresses, operation)) await removeDurably(file);
}

async function reservedFor(ipamDir: string, addresses: readonly Address[], operation: string): Promise<string[]> {
  if (ipamDir === '') return [];
  const files = addresses.map(({ local }) => join(ipamDir, local));
  const owners = await Promise.all(files.map((file) => readFile(file, 'utf8').catch(() => '')));
  return files.filter((_, index) => owners[index]?.trim().split(/\s+/)[0] === `gantry-${operation}`);
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
