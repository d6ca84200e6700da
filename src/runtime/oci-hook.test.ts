import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const HOOK = join(import.meta.dirname, 'oci-hook.sh');
const ID = 'c0ffee';

/** Stands for runc: says how it was called, and ends as it is told. */
const FAKE_RUNTIME = `#!/bin/sh
{ for word; do printf '%s\\0' "$word"; done; } >"$FAKE_OUT/args"
echo $$ >"$FAKE_OUT/pid"
printf '%s' "\${CRIU_CONFIG_FILE-}" >"$FAKE_OUT/criu-config"
[ ! -d "$GANTRY_RUN_DIR/tickets/${ID}" ] || : >"$FAKE_OUT/ticket-still-there"
cat
echo 'to stderr' >&2
exit "\${FAKE_CODE:-0}"
`;

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'oci-hook-'));
  await mkdir(join(folder, 'bin'));
  await mkdir(join(folder, 'run/tickets'), { recursive: true });
  await mkdir(join(folder, 'run/spent'));
  await writeFile(join(folder, 'bin/fake'), FAKE_RUNTIME);
  await chmod(join(folder, 'bin/fake'), 0o755);
  // The runtime's name is what follows "gantry-".
  await symlink(HOOK, join(folder, 'bin/gantry-fake'));
});

afterEach(() => rm(folder, { recursive: true, force: true }));

async function hook(args: string[], { code = 0, input = '' } = {}) {
  await rm(join(folder, 'args'), { force: true });
  const child = execa(join(folder, 'bin/gantry-fake'), args, {
    input,
    reject: false,
    env: {
      PATH: `${join(folder, 'bin')}:${process.env.PATH}`,
      GANTRY_RUN_DIR: join(folder, 'run'),
      FAKE_OUT: folder,
      FAKE_CODE: String(code),
    },
  });
  const { exitCode, stdout, stderr } = await child;
  const called = existsSync(join(folder, 'args'));
  return {
    pid: child.pid,
    exitCode,
    stdout,
    stderr,
    called,
    args: called ? (await readFile(join(folder, 'args'), 'utf8')).split('\0').slice(0, -1) : [],
  };
}

async function issueTicket(options = ['--tcp-established', '--file-locks']): Promise<void> {
  const ticket = join(folder, 'run/tickets', ID);
  await mkdir(ticket);
  await writeFile(join(ticket, 'options'), options.map((option) => `${option}\n`).join(''));
  await writeFile(join(ticket, 'criu.conf'), 'network-lock skip\n');
}

const spent = (name: string) => join(folder, 'run/spent', ID, name);
const create = ['--root', '/r', '--log', '/l', '--log-format', 'json', '--systemd-cgroup', 'create', '--bundle', '/b'];

describe('without a ticket', () => {
  it('passes every argument byte for byte', async () => {
    const odd = ['--root', '/a b', 'create', '', 'quo"te', "apo'strophe", 'new\nline', '*', '$HOME', '\\', ID];
    expect((await hook(odd)).args).toEqual(odd);
  });

  it('becomes the runtime: same process, same input and outputs, its exit code', async () => {
    const result = await hook(['start', ID], { code: 7, input: 'to stdin' });
    expect(Number(await readFile(join(folder, 'pid'), 'utf8'))).toBe(result.pid);
    expect(result).toMatchObject({ exitCode: 7, stdout: 'to stdin', stderr: 'to stderr' });
  });

  it('passes what is no container ID', async () => {
    for (const id of ['..', '.', '', '../tickets', 'a/b'])
      expect((await hook(['create', id])).args).toEqual(['create', id]);
    expect((await hook(['--version'])).args).toEqual(['--version']);
  });
});

describe('with a ticket', () => {
  it('turns create into restore, with the options of the ticket and without those that restore does not know', async () => {
    await issueTicket();
    const { args, exitCode } = await hook([
      ...create,
      '--pid-file',
      '/p',
      '--no-new-keyring',
      '--preserve-fds',
      '3',
      '--preserve-fds=4',
      ID,
    ]);
    expect(exitCode).toBe(0);
    expect(args).toEqual([
      ...create.slice(0, 7),
      'restore',
      '--detach',
      '--image-path',
      spent('checkpoint'),
      '--work-path',
      join(folder, 'run/spent', ID),
      '--tcp-established',
      '--file-locks',
      '--bundle',
      '/b',
      '--pid-file',
      '/p',
      ID,
    ]);
    expect(await readFile(join(folder, 'criu-config'), 'utf8')).toBe(spent('criu.conf'));
  });

  it('knows the verb from the value of an option', async () => {
    await issueTicket([]);
    const { args } = await hook(['--root', 'create', '--log', 'start', 'create', ID]);
    expect(args.slice(0, 5)).toEqual(['--root', 'create', '--log', 'start', 'restore']);
  });

  it('uses it up before the runtime runs, and once', async () => {
    await issueTicket();
    await hook([...create, ID], { code: 1 });
    expect(existsSync(join(folder, 'ticket-still-there'))).toBe(false);
    expect((await hook([...create, ID])).args).toEqual([...create, ID]);
  });

  it('takes the newest ticket when something is left of an older one', async () => {
    await issueTicket(['--old']);
    await hook([...create, ID], { code: 1 });
    await issueTicket(['--new']);
    const { args } = await hook([...create, ID]);
    expect(args).toContain('--new');
    expect(args).not.toContain('--old');
    expect(existsSync(spent(ID))).toBe(false);
  });

  it('has nothing left to do at the start that follows, and starts for real at the next one', async () => {
    await issueTicket();
    await hook([...create, ID]);
    expect(await hook(['start', ID])).toMatchObject({ exitCode: 0, called: false });
    expect(await hook(['start', ID])).toMatchObject({ called: true, args: ['start', ID] });
  });

  it('lets every other verb pass, and keeps the ticket for create', async () => {
    await issueTicket();
    for (const verb of ['state', 'kill', 'delete', 'exec', 'start', 'features']) {
      expect((await hook([verb, ID])).args).toEqual([verb, ID]);
    }
    expect(existsSync(join(folder, 'run/tickets', ID))).toBe(true);
  });
});

describe('when the restore fails', () => {
  async function failWith(
    log: string,
  ): Promise<{ exitCode: number | undefined; lines: { msg: string; level: string }[] }> {
    await issueTicket();
    await writeFile(join(folder, 'run/tickets', ID, 'restore.log'), log);
    const runtimeLog = join(folder, 'log.json');
    await writeFile(runtimeLog, '{"level":"error","msg":"criu failed: type NOTIFY errno 0"}\n');
    const { exitCode } = await hook(['--log', runtimeLog, 'create', ID], { code: 3 });
    const lines = (await readFile(runtimeLog, 'utf8')).trim().split('\n');
    return { exitCode, lines: lines.map((line) => JSON.parse(line) as { msg: string; level: string }) };
  }

  it("tells CRIU's reason as the last error of the runtime's log, and exits as the runtime did", async () => {
    const { exitCode, lines } = await failWith(
      [
        "(00.000001) Error (criu/rlimit.c:17): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted",
        '(00.1) fine',
        '(00.2)      7: Error (criu/files-reg.c:2143): File usr/bin/x has bad size 1 (expect 2)',
        '(00.3) Error (criu/cr-restore.c:2447): Restoring FAILED.',
      ].join('\n'),
    );
    expect(exitCode).toBe(3);
    expect(lines.at(-1)).toEqual({
      level: 'error',
      msg: 'restore from checkpoint failed: File usr/bin/x has bad size 1 (expect 2); Restoring FAILED.',
    });
  });

  it('stays valid JSON whatever the reason holds', async () => {
    const { lines } = await failWith('(00.1) Error (criu/x.c:1): a "quote", a back\\slash, a\ttab and \u0007 a bell\n');
    expect(lines.at(-1)?.msg).toContain('a "quote", a back\\slash, a tab and');
  });

  it('adds nothing when CRIU said nothing, and does not make the next start a no-op', async () => {
    const { lines } = await failWith('');
    expect(lines).toHaveLength(1);
    expect((await hook(['start', ID])).called).toBe(true);
  });
});
