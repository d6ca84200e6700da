import { join } from 'node:path';
import protobuf from 'protobufjs';
import { beforeAll, describe, expect, it } from 'vitest';
import { ID_FIELDS, METHODS } from './methods.ts';
import { PATHS, subjectKindOf } from './subjects.ts';

const REPOSITORY = join(import.meta.dirname, '../..');
// The upstream definition, as `hack/generate` takes it from Debian's package.
const DEFINITION = join(REPOSITORY, '.lab/cri-api/plain/api.proto');
const SUPPLEMENT = join(REPOSITORY, 'proto/cri/supplement.proto');

/** A field that may hold an ID of a container or a sandbox, by how the CRI names them. */
const MAY_HOLD_ID = /^(id|ids|.*_ids?|info|label_values)$/;

let services: protobuf.Service[];
let types: protobuf.Type[];

beforeAll(async () => {
  const root = new protobuf.Root();
  root.resolvePath = (_origin, target) => target;
  await root.load([DEFINITION, SUPPLEMENT], { keepCase: true });
  const all = root.lookup('runtime.v1') as protobuf.Namespace;
  services = all.nestedArray.filter((entry): entry is protobuf.Service => entry instanceof protobuf.Service);
  types = all.nestedArray.filter((entry): entry is protobuf.Type => entry instanceof protobuf.Type);
});

describe('the method table', () => {
  it('has every method of the upstream definition, with its service and its kind of answer', () => {
    const upstream = services.flatMap((service) =>
      service.methodsArray.map((method) => [
        method.name,
        { service: service.name.replace('Supplement', ''), streams: method.responseStream === true },
      ]),
    );
    expect(upstream.length).toBeGreaterThanOrEqual(43);
    const table = Object.entries(METHODS).map(([name, { service, streams }]) => [name, { service, streams }]);
    expect(Object.fromEntries(table)).toEqual(Object.fromEntries(upstream));
  });

  it('classifies every field that may hold an ID, and none that does not exist', () => {
    const upstream = types.flatMap((type) =>
      type.fieldsArray.filter(({ name }) => MAY_HOLD_ID.test(name)).map(({ name }) => `${type.name}.${name}`),
    );
    expect(upstream.length).toBeGreaterThan(40);
    expect(Object.keys(ID_FIELDS).toSorted()).toEqual(upstream.toSorted());
  });

  it('knows where a request says what it is about: every one that has the ID of one thing has it in its first field', () => {
    const requests = types.filter(({ name }) => name.endsWith('Request') && METHODS[name.slice(0, -7)] !== undefined);
    expect(requests.length).toBeGreaterThan(20);
    for (const { name, fields } of requests) {
      const id = fields.container_id ?? fields.pod_sandbox_id;
      const kind = subjectKindOf(name.slice(0, -7));
      if (id !== undefined) expect([name, kind, id.id]).toEqual([name, expect.any(String), PATHS.id[0]]);
      else expect([name, kind]).toEqual([name, name === 'RunPodSandboxRequest' ? 'new sandbox' : undefined]);
    }
  });
});
