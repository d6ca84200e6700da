import { describe, expect, it } from 'vitest';
import { Event, Transferred } from '../gen/gantry/v1/agent.ts';
import { ProgressLine, transferText } from './progress.ts';

const MIB = 1024 * 1024;
const of = (phase: string, moved: number, total = 0) =>
  Transferred.fromPartial({ phase, phaseBytes: BigInt(moved * MIB), phaseTotal: BigInt(total * MIB) });

describe('transferText', () => {
  it('has rate and estimate where the size is known', () => {
    expect(transferText(of('send memory', 48, 512), 500)).toBe(
      'send memory 48.0 MiB of 512.0 MiB, 96.0 MiB/s, 5 s left',
    );
  });

  it('has no estimate where it is not', () => {
    expect(transferText(of('sync files', 30), 1000)).toBe('sync files 30.0 MiB, 30.0 MiB/s');
  });

  it('says no rate before there is one', () => {
    expect(transferText(of('send memory', 1, 10), 3)).toBe('send memory 1.0 MiB of 10.0 MiB');
  });

  it('never has more than all of it: a stream is larger than the files in it', () => {
    expect(transferText(of('send memory', 11, 10), 1000)).toBe(
      'send memory 11.0 MiB of 11.0 MiB, 11.0 MiB/s, 0 s left',
    );
  });
});

describe('ProgressLine, without a terminal', () => {
  const lines: string[] = [];
  const stream = { isTTY: false, write: (line: string) => lines.push(line) } as unknown as NodeJS.WriteStream;

  it('tells of a transfer that lasts, twice a second at most, and of each phase that has ended', async () => {
    const progress = new ProgressLine(stream);
    progress.show(Event.fromPartial({ phaseStarted: { name: 'send memory' } }), 'id ');
    for (let tenth = 1; tenth <= 12; tenth++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      progress.show(Event.fromPartial({ transferred: of('send memory', tenth, 100) }), 'id ');
    }
    progress.show(Event.fromPartial({ phase: { name: 'send memory', durationMs: 1200 } }), 'id ');
    const transfers = lines.slice(0, -1);
    expect(transfers.length).toBeGreaterThan(0);
    expect(transfers.length).toBeLessThanOrEqual(3);
    for (const line of transfers) expect(line).toMatch(/^id send memory \d+\.0 MiB of 100\.0 MiB, .* s left\n$/);
    expect(lines.at(-1)).toBe('id send memory 1200 ms\n');
  });
});
