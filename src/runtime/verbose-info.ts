/** What containerd's verbose status (`info`, a JSON text) holds that is read here. */
interface VerboseInfo {
  config: unknown;
  runtimeSpec?: unknown;
}

interface Variable {
  key: string;
  value?: string;
}

/**
 * The CRI configuration a container or sandbox was made with, from the verbose status: Go's JSON of the message, with
 * the proto's own field names.
 *
 * One field is ambiguous: a variable's value is plain text there when the runtime was built with a cri-api up to 0.36.0,
 * and base64 after that (the field became `bytes`). The environment of the OCI spec beside it decides.
 */
export function configFromInfo<T>(info: VerboseInfo, type: { fromJSON(json: unknown): T }): T {
  const config = structuredClone(info.config) as { envs?: Variable[] };
  const environment = (info.runtimeSpec as { process?: { env?: string[] } } | undefined)?.process?.env ?? [];
  for (const variable of config.envs ?? []) {
    const value = variable.value ?? '';
    const isBase64 =
      !environment.includes(`${variable.key}=${value}`) &&
      environment.includes(`${variable.key}=${Buffer.from(value, 'base64').toString()}`);
    if (!isBase64) variable.value = Buffer.from(value).toString('base64');
  }
  return type.fromJSON(config);
}
