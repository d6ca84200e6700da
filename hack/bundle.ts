// A few files, so that a command starts in tens of milliseconds instead of hundreds, and loads no more than it needs.
import { copyFileSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
const { metafile } = await build({
  entryPoints: { gantry: 'src/cli/main.ts', 'pump-worker': 'src/archive/pump-worker.ts' },
  outdir: 'dist',
  outExtension: { '.js': '.mjs' },
  chunkNames: '[name]-[hash]', // beside the shell scripts, which are found from there
  bundle: true,
  splitting: true,
  platform: 'node',
  target: 'node26',
  format: 'esm',
  sourcemap: true,
  define: { 'process.env.GANTRY_VERSION': JSON.stringify(version) },
  // grpc-js and others are CommonJS and call require() for Node's own modules.
  banner: { js: "import { createRequire } from 'node:module';const require = createRequire(import.meta.url);" },
  logLevel: 'warning',
  metafile: true,
});

// Those of earlier builds.
for (const name of readdirSync('dist')) {
  const path = join('dist', name);
  if (/\.mjs(\.map)?$/.test(name) && !(path in metafile.outputs)) rmSync(path);
}

// Shell scripts that other programs run.
for (const script of ['oci-hook.sh', 'restore-gate.sh']) copyFileSync(`src/runtime/${script}`, `dist/${script}`);
