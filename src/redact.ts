// Registry credentials (AuthConfig of PullImageRequest.auth, and what HTTP calls them), keys and secrets, by field name:
// camelCase as generated code has it, snake_case as protobuf and kubelet's JSON have it.
const SECRET_FIELDS: ReadonlySet<string> = new Set([
  'auth',
  'authorization',
  'proxyauthorization',
  'password',
  'identitytoken',
  'registrytoken',
  'token',
  'secret',
  'cookie',
  'setcookie',
  'dockerconfigjson',
]);

const CENSORED = '[redacted]';
const MAX_DEPTH = 8;

/**
 * A copy of `value` that may be logged: no field that holds credentials, at whatever depth, no password inside a text,
 * and no bytes: an encoded message or a page of memory may hold anything.
 */
export function redact(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return redactText(value);
  if (typeof value !== 'object' || value === null) return typeof value === 'bigint' ? Number(value) : value;
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`;
  if (value instanceof Error) return redactText(value.message);
  if (depth >= MAX_DEPTH) return '[deeper]';
  if (Array.isArray(value)) return value.map((item) => redact(item, depth + 1));
  if (value instanceof Date) return value;
  const copy: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(value)) {
    copy[name] = SECRET_FIELDS.has(name.toLowerCase().replaceAll(/[-_]/g, '')) ? CENSORED : redact(field, depth + 1);
  }
  return copy;
}

/** Errors of registries quote URLs and headers. */
export function redactText(text: string): string {
  return text
    .replaceAll(/\b([a-z][a-z0-9+.-]*:\/\/)[^\s/@]+@/gi, `$1${CENSORED}@`)
    .replaceAll(/\b(bearer|basic)\s+[\w+/=.~-]{8,}/gi, `$1 ${CENSORED}`)
    .replaceAll(/([?&](?:x-amz-signature|x-amz-credential|signature|sig|token|password)=)[^&\s"']+/gi, `$1${CENSORED}`);
}
