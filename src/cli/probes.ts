import { type Command, InvalidArgumentError, Option } from 'commander';
import { Probe } from '../gen/gantry/v1/probe.ts';

export interface ProbeOptions {
  verifyTcp?: number;
  verifyHttp?: { port: number; path: string };
  verifyExec?: string[];
  verifyTimeout: number;
}

/** `--verify-...`: what has to succeed at the target before anybody reaches the pod there. */
export function addProbeOptions(command: Command): Command {
  return command
    .addOption(new Option('--verify-tcp <port>', 'the port accepts a connection').argParser(portOf))
    .addOption(
      new Option('--verify-http <port/path>', 'the port answers GET /PATH with 2xx or 3xx').argParser(parseHttp),
    )
    .addOption(
      new Option(
        '--verify-exec <command>',
        'ends with 0 in the first container; run by its sh, or as it is when it is a JSON array of words',
      ).argParser(parseExec),
    )
    .addOption(
      new Option('--verify-timeout <seconds>', 'how long each of them may take').argParser(parseTimeout).default(5),
    );
}

export function probesOf({ verifyTcp, verifyHttp, verifyExec, verifyTimeout }: ProbeOptions): Probe[] {
  const limitMs = Math.round(verifyTimeout * 1000);
  return [
    ...(verifyTcp === undefined ? [] : [Probe.fromPartial({ tcpPort: verifyTcp, limitMs })]),
    ...(verifyHttp === undefined ? [] : [Probe.fromPartial({ http: verifyHttp, limitMs })]),
    ...(verifyExec === undefined ? [] : [Probe.fromPartial({ exec: { command: verifyExec }, limitMs })]),
  ];
}

function portOf(text: string): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port < 1 || port > 65_535) throw new InvalidArgumentError('it is a port, from 1 to 65535');
  return port;
}

/** "8080/healthz?x=1", "8080": the path is then the root. */
export function parseHttp(text: string): { port: number; path: string } {
  const [, port = '', path = ''] = /^(\d+)(\/.*)?$/s.exec(text) ?? [];
  return { port: portOf(port), path: path || '/' };
}

/** As in a Dockerfile: a line for the shell, or a JSON array of words. */
export function parseExec(text: string): string[] {
  if (!text.startsWith('[')) return ['/bin/sh', '-c', text];
  try {
    const words: unknown = JSON.parse(text);
    if (Array.isArray(words) && words.length > 0 && words.every((word) => typeof word === 'string')) return words;
  } catch {
    // Told below.
  }
  throw new InvalidArgumentError('it is a line for the shell or a JSON array of words');
}

function parseTimeout(text: string): number {
  const seconds = Number(text);
  if (!(seconds >= 0.001 && seconds <= 60)) throw new InvalidArgumentError('it is a number of seconds up to 60');
  return seconds;
}
