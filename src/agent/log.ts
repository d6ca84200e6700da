/** Writes one event as one line of JSON. */
export type Log = (event: string, fields?: Record<string, unknown>) => void;

/** Logs to standard error, where a supervisor collects it. Never images, configurations or credentials. */
export const logToStderr: Log = (event, fields = {}) => {
  process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), event, ...fields })}\n`);
};
