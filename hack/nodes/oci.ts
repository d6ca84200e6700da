import { createHash } from 'node:crypto';
import { type Entry, tar } from './tar.ts';

export interface Image {
  readonly reference: string;
  readonly files: readonly Entry[];
  readonly config: { Env: string[]; Entrypoint?: string[]; Cmd?: string[]; WorkingDir: string };
}

/** An archive of an OCI image layout (image-spec 1.1) with one image of one layer, as `ctr images import` takes it. */
export function ociArchive(image: Image): Buffer {
  const blobs = new Map<string, Buffer>();
  const add = (mediaType: string, content: Buffer) => {
    const hex = createHash('sha256').update(content).digest('hex');
    blobs.set(`blobs/sha256/${hex}`, content);
    return { mediaType, digest: `sha256:${hex}`, size: content.length };
  };
  // Not compressed: the bytes must not depend on a zlib version, and nothing is downloaded.
  const layer = add('application/vnd.oci.image.layer.v1.tar', tar(image.files));
  const config = add(
    'application/vnd.oci.image.config.v1+json',
    json({
      created: '1970-01-01T00:00:00Z',
      architecture: process.arch === 'x64' ? 'amd64' : process.arch,
      os: 'linux',
      config: image.config,
      rootfs: { type: 'layers', diff_ids: [layer.digest] },
    }),
  );
  const manifest = add(
    'application/vnd.oci.image.manifest.v1+json',
    json({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config,
      layers: [layer],
    }),
  );
  const index = {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.index.v1+json',
    manifests: [{ ...manifest, annotations: { 'io.containerd.image.name': image.reference } }],
  };
  return tar([
    { path: 'blobs', type: 'folder' },
    { path: 'blobs/sha256', type: 'folder' },
    ...[...blobs].map(([path, content]) => ({ path, type: 'file' as const, content })),
    { path: 'index.json', type: 'file', content: json(index) },
    { path: 'oci-layout', type: 'file', content: json({ imageLayoutVersion: '1.0.0' }) },
  ]);
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}
