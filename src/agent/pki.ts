import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as x509 from '@peculiar/x509';
import { exists, makePrivateFolder, writeDurably } from '../durable.ts';
import { GantryError } from '../errors.ts';

x509.cryptoProvider.set(webcrypto as unknown as Crypto);

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const DAY_MS = 24 * 60 * 60 * 1000;

/** Makes a certificate authority for one group of nodes: ca.crt and ca.key (0600) in `folder`. */
export async function makeAuthority(folder: string, days: number): Promise<void> {
  await refuseToReplace(join(folder, 'ca.crt'));
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=Gantry CA',
    keys: keys as webcrypto.CryptoKeyPair,
    signingAlgorithm: ALGORITHM,
    ...validity(days),
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    ],
  });
  await writePair(folder, 'ca', certificate, keys.privateKey);
}

/**
 * Makes a node's certificate for both directions of TLS: node.crt and node.key (0600) in `folder`. The node's name is
 * its DNS subject alternative name; peers check it.
 */
export async function makeNodeCertificate(node: string, caFolder: string, folder: string, days: number): Promise<void> {
  await refuseToReplace(join(folder, 'node.crt'));
  const ca = new x509.X509Certificate(await readText(join(caFolder, 'ca.crt')));
  const caKey = x509.PemConverter.decodeFirst(await readText(join(caFolder, 'ca.key')));
  const signingKey = await webcrypto.subtle.importKey('pkcs8', caKey, ALGORITHM, false, ['sign']);
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.create({
    subject: `CN=${node}`,
    issuer: ca.subject,
    publicKey: keys.publicKey as CryptoKey,
    signingKey: signingKey as CryptoKey,
    signingAlgorithm: ALGORITHM,
    ...validity(days),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: node }]),
    ],
  });
  await writePair(folder, 'node', certificate, keys.privateKey);
}

async function writePair(folder: string, name: string, certificate: x509.X509Certificate, key: webcrypto.CryptoKey) {
  const pkcs8 = await webcrypto.subtle.exportKey('pkcs8', key);
  await makePrivateFolder(folder);
  await writeDurably(join(folder, `${name}.key`), `${x509.PemConverter.encode(pkcs8, 'PRIVATE KEY')}\n`);
  await writeDurably(join(folder, `${name}.crt`), `${certificate.toString('pem')}\n`, 0o644);
}

function validity(days: number): { notBefore: Date; notAfter: Date } {
  const now = Date.now();
  // A minute of slack for clocks that differ.
  return { notBefore: new Date(now - 60_000), notAfter: new Date(now + days * DAY_MS) };
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new GantryError('USAGE', `cannot read ${file}`, { cause: error, hint: 'gantry pki ca --out DIR makes one' });
  }
}

async function refuseToReplace(file: string): Promise<void> {
  if (await exists(file)) {
    throw new GantryError('USAGE', `${file} exists already`, { hint: 'choose another folder, or remove it first' });
  }
}
