import { Command } from 'commander';

/** `gantry pki`: certificates for agents that trust each other. */
export function pkiCommand(): Command {
  const pki = new Command('pki').description('make the certificates with which agents know each other').addHelpText(
    'after',
    `
Agents speak to each other over TLS 1.3 and both sides show a certificate. One authority per group of nodes:
  gantry pki ca --out ./pki
  gantry pki node node-a --ca ./pki --out ./pki/node-a
Copy ca.crt, node.crt and node.key to the node; ca.key stays where it was made.`,
  );
  pki
    .command('ca')
    .description('make a certificate authority: ca.crt and ca.key')
    .requiredOption('--out <dir>', 'folder to write to')
    .option('--days <n>', 'how long it is valid', parseDays, 3650)
    .action(async (options: { out: string; days: number }) => {
      const { makeAuthority } = await import('../agent/pki.ts');
      await makeAuthority(options.out, options.days);
      console.log(`wrote ${options.out}/ca.crt and ca.key`);
    });
  pki
    .command('node')
    .description("make a node's certificate: node.crt and node.key")
    .argument('<name>', "the node's name, as in the peers' configuration")
    .requiredOption('--ca <dir>', 'folder of the authority')
    .requiredOption('--out <dir>', 'folder to write to')
    .option('--days <n>', 'how long it is valid', parseDays, 365)
    .action(async (name: string, options: { ca: string; out: string; days: number }) => {
      const { makeNodeCertificate } = await import('../agent/pki.ts');
      await makeNodeCertificate(name, options.ca, options.out, options.days);
      console.log(`wrote ${options.out}/node.crt and node.key for ${name}`);
    });
  return pki;
}

function parseDays(text: string): number {
  const days = Number(text);
  if (!Number.isInteger(days) || days < 1) throw new TypeError(`--days takes a whole number of days, not "${text}"`);
  return days;
}
