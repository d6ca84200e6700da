import { checkpointSteps } from './checkpoint.steps.ts';
import { changeSteps, containerSteps, startSteps } from './container.steps.ts';
import { endingSteps } from './ending.steps.ts';
import { eventSteps } from './event.steps.ts';
import { imageSteps } from './image.steps.ts';
import { runtimeSteps } from './runtime.steps.ts';
import { sandboxSteps } from './sandbox.steps.ts';
import { statsSteps } from './stats.steps.ts';
import type { Step } from './step.ts';
import { streamingSteps } from './streaming.steps.ts';
import { wireSteps } from './wire.steps.ts';

/** Every method of the CRI, in the order of a pod's life. */
export const SCRIPT: readonly Step[] = [
  ...runtimeSteps,
  ...wireSteps,
  ...sandboxSteps,
  ...startSteps,
  ...containerSteps,
  ...changeSteps,
  ...streamingSteps,
  ...statsSteps,
  ...eventSteps,
  ...checkpointSteps,
  ...endingSteps,
  ...imageSteps,
];
