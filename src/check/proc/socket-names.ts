import { run } from '../../runtime/program.ts';

/** A socket of which the tables do not tell everything: in none, or in TCP's, where those of MPTCP are, too. */
export interface NamedSocket {
  readonly pid: number;
  readonly fd: string;
  /** As the kernel calls it: TCP, MPTCP, AF_VSOCK, ALG; "" when it cannot be told. */
  readonly protocol: string;
}

/** getxattr(2) is 191 on x86-64 and 8 on later architectures; Node has no way to call it. */
const SCRIPT = `while (my $path = <STDIN>) { chomp $path; my $value = "\\0" x 64; my $name = "system.sockprotoname\\0"; my $file = "$path\\0";
  my $length = syscall(-e "/lib64/ld-linux-x86-64.so.2" ? 191 : 8, $file, $name, $value, 64);
  print $length > 0 ? substr($value, 0, $length) =~ s/\\0.*//r : "", "\\n" }`;

/** Asks the kernel for the protocol of each, through perl, which is a part of every Debian; without it none can be told. */
export async function nameSockets(
  sockets: readonly Pick<NamedSocket, 'pid' | 'fd'>[],
  signal: AbortSignal,
): Promise<NamedSocket[]> {
  if (sockets.length === 0) return [];
  const paths = sockets.map(({ pid, fd }) => `/proc/${pid}/fd/${fd}`);
  const names = await run('perl', ['-e', SCRIPT], { signal, input: `${paths.join('\n')}\n` }).then(
    (text) => text.split('\n'),
    () => [],
  );
  signal.throwIfAborted();
  return sockets.map((socket, at) => ({ ...socket, protocol: names[at]?.trim() ?? '' }));
}
