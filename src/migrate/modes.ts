/** What a user may ask for; none is the best that keeps memory and connections. */
export const MODES = ['auto', 'hot', 'pre-copy', 'stop-and-copy', 'cold'] as const;
