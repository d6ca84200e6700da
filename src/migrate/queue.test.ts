import { describe, expect, it } from 'vitest';
import { Places } from './queue.ts';

const patient = () => new AbortController().signal;

describe('Places', () => {
  it('has so many and no more', () => {
    const places = new Places(2);
    const first = places.tryEnter();
    expect(first).toBeDefined();
    expect(places.tryEnter()).toBeDefined();
    expect(places.tryEnter()).toBeUndefined();
    first?.[Symbol.dispose]();
    expect(places.tryEnter()).toBeDefined();
  });

  it('gives a place that is left only once', () => {
    const places = new Places(1);
    const only = places.tryEnter();
    only?.[Symbol.dispose]();
    only?.[Symbol.dispose]();
    expect(places.tryEnter()).toBeDefined();
    expect(places.tryEnter()).toBeUndefined();
  });

  it('lets higher priorities in first, and among the same whoever came first', async () => {
    const places = new Places(1);
    const entered: string[] = [];
    const visit = async (name: string, priority: number) => {
      using _place = await places.enter(priority, patient());
      entered.push(name);
    };
    const holder = places.tryEnter();
    const visits = [
      visit('first', 0),
      visit('second', 0),
      visit('urgent', 5),
      visit('late', -1),
      visit('urgent too', 5),
    ];
    expect(entered).toEqual([]);
    holder?.[Symbol.dispose]();
    await Promise.all(visits);
    expect(entered).toEqual(['urgent', 'urgent too', 'first', 'second', 'late']);
  });

  it('forgets who gives up', async () => {
    const places = new Places(1);
    const holder = places.tryEnter();
    const impatience = new AbortController();
    const gone = places.enter(9, impatience.signal);
    const stays = places.enter(0, patient());
    impatience.abort(new Error('no more'));
    await expect(gone).rejects.toThrow('no more');
    holder?.[Symbol.dispose]();
    await expect(stays).resolves.toBeDefined();
    await expect(places.enter(0, AbortSignal.abort(new Error('too late')))).rejects.toThrow('too late');
  });
});
