/** What may have a limit: phases before the commit, and all of them together from the freeze (cold: the end) on. */
export const LIMITED = [
  ...['connect', 'placeholder', 'sync files', 'dump', 'sync files again', 'send memory', 'restore', 'frozen'],
] as const;

/** Seconds. Nobody knows how long files take that are copied while the pod serves. */
export const LIMITS: Readonly<Record<string, number>> = { connect: 30, placeholder: 180, frozen: 900 };

/** What a user may ask for; none is the best that keeps memory and connections. */
export const MODES = ['auto', 'hot', 'pre-copy', 'stop-and-copy', 'cold'] as const;
