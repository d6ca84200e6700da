/** Every container that Gantry puts into a slot carries it: the slot's ID. */
export const SLOT_LABEL = 'gantry.dev/slot';
