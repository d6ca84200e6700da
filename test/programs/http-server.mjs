// A server with a timer, a thread that counts and a child process that echoes, all of which each answer tells of.
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { Worker } from 'node:worker_threads';

const counter = new BigInt64Array(new SharedArrayBuffer(8));
const idle = new Int32Array(new SharedArrayBuffer(4));
const thread = `import { workerData } from 'node:worker_threads';
  const [counter, idle] = workerData;
  for (;;) { Atomics.add(counter, 0, 1n); Atomics.wait(idle, 0, 0, 1); }`;
new Worker(thread, { eval: true, workerData: [counter, idle] });
const child = spawn('cat', { stdio: ['pipe', 'pipe', 'inherit'] });
let ticks = 0;
setInterval(() => ticks++, 2);
let requests = 0;
const ofConnection = new WeakMap();

/** Numbers, one after another, for as long as somebody listens. */
function count(response) {
  let next = 1;
  const timer = setInterval(() => response.write(`${next++}\n`), 2);
  response.on('close', () => clearInterval(timer));
}

const server = createServer((request, response) => {
  if (request.url === '/numbers') return count(response);
  ofConnection.set(request.socket, (ofConnection.get(request.socket) ?? 0) + 1);
  child.stdout.once('data', (echo) => {
    const facts = { requests, ofConnection: ofConnection.get(request.socket), ticks, echo: String(echo) };
    response.end(JSON.stringify({ ...facts, thread: Number(Atomics.load(counter, 0)), child: child.pid }));
  });
  child.stdin.write(String(++requests));
});
server.keepAliveTimeout = 600_000;
server.listen(8080);
