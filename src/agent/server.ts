import { chmod, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
} from '@grpc/grpc-js';
import { check } from '../check/check.ts';
import { checkpoint } from '../checkpoint/checkpoint.ts';
import { discardPrepared, preparePod } from '../checkpoint/prepare.ts';
import { keepSwept } from '../checkpoint/prepared.ts';
import { restore } from '../checkpoint/restore.ts';
import { resume } from '../checkpoint/resume.ts';
import { startPrepared } from '../checkpoint/start-prepared.ts';
import { makePrivateFolder } from '../durable.ts';
import { GantryError, messageOf, REASONS } from '../errors.ts';
import { type AgentServer, AgentService, Event, type MigrationEvent, type Result } from '../gen/gantry/v1/agent.ts';
import type { Log } from '../log.ts';
import { Acceptor } from '../migrate/acceptor.ts';
import { Journal } from '../migrate/journal.ts';
import { commit, keepRetained, releaseAddresses } from '../migrate/keeper.ts';
import { Migrations } from '../migrate/migrations.ts';
import { recover } from '../migrate/recover.ts';
import { rollBackMigration } from '../migrate/revert.ts';
import { migrate } from '../migrate/source.ts';
import { Identities, providerOf } from '../network/identity/identities.ts';
import { keepIdentities } from '../network/identity/keep.ts';
import { MovedAddresses } from '../network/moved.ts';
import { Cri } from '../runtime/cri.ts';
import { keepReconciled } from '../surgery/reconcile.ts';
import { Slots } from '../surgery/slots.ts';
import { insert, remove, rollback, swap } from '../surgery/surgery.ts';
import { listenForPeers } from '../transfer/peer.ts';
import { attached } from './attached.ts';
import type { AgentConfig } from './config.ts';
import { nodeInfo } from './info.ts';
import type { AgentMetrics } from './metrics.ts';
import type { Node } from './node.ts';
import { Operation } from './operation.ts';
import { Traces } from './traces.ts';

const RUNTIME_WAIT_MS = 60_000;

/**
 * Runs a node's agent until the signal. Order matters: first the journal of the agent before is settled, then peers and
 * callers are listened to.
 */
export async function serveAgent(config: AgentConfig, log: Log, signal: AbortSignal): Promise<void> {
  process.umask(0o077);
  await makePrivateFolder(config.stateDir);
  await refuseSecond(config.agentSocket);
  using cri = new Cri(config.runtimeSocket);
  await waitForRuntime(cri, config, signal);
  using slots = new Slots(config.proxySocket);
  const journal = await Journal.open(config.stateDir);
  const node: Node = {
    config,
    cri,
    slots,
    journal,
    migrations: await Migrations.open(config, journal, log),
    identities: await Identities.open(join(config.stateDir, 'identities'), providerOf(config, log), log),
    moved: new MovedAddresses(config.stateDir),
    log,
    busy: new Set(),
    reconciling: new Map(),
  };
  // Loaded only where somebody asks for it: it is not small.
  const served = config.metrics === '' ? undefined : await (await import('./metrics.ts')).metricsOf(node, log);
  await using _metrics = served?.server;
  await using traces = config.otlpEndpoint === '' ? undefined : new Traces(config.otlpEndpoint, config.node, log);
  if (traces !== undefined) node.migrations.onEnded((migration) => traces.add(migration));
  await recover(node);
  const keeping = Promise.all([
    keepReconciled(node, signal),
    keepSwept(node, signal),
    keepRetained(node, signal),
    keepIdentities(node, signal),
  ]);

  const acceptor = new Acceptor(node);
  const peers = await listenForPeers(config, (...connection) => acceptor.accept(...connection));
  const operations = new Map<string, Operation>();
  const server = new Server();
  server.addService(AgentService, handlers(node, operations, served?.metrics));
  await rm(config.agentSocket, { force: true });
  await makePrivateFolder(dirname(config.agentSocket));
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${config.agentSocket}`, ServerCredentials.createInsecure(), (error) =>
      error ? reject(error) : resolve(),
    ),
  );
  await chmod(config.agentSocket, 0o600);
  log.info('agent-ready', { node: config.node, socket: config.agentSocket, peers: config.peerListen });

  await new Promise<void>((resolve) =>
    signal.aborted ? resolve() : signal.addEventListener('abort', () => resolve()),
  );
  log.info('agent-stopping', { operations: operations.size });
  for (const operation of operations.values()) operation.cancel();
  peers.close();
  for (let round = 0; round < 300 && operations.size > 0; round++) await sleep(100);
  await keeping;
  server.forceShutdown();
  await rm(config.agentSocket, { force: true });
}

function handlers(node: Node, operations: Map<string, Operation>, metrics: AgentMetrics | undefined): AgentServer {
  const run = <Request>(
    call: ServerWritableStream<Request, Event>,
    verb: string,
    subject: string,
    work: (operation: Operation) => Promise<Result>,
  ) => {
    const operation = new Operation(subject);
    const about = { operation: operation.id, verb, subject };
    operations.set(operation.id, operation);
    const write = (event: Event) => {
      // The caller may be gone; the operation goes on.
      if (!call.cancelled && call.writable) call.write(event);
    };
    call.on('error', () => undefined);
    operation.onEvent(write);
    write(Event.fromPartial({ started: { operationId: operation.id } }));
    node.log.info('operation-started', about);
    work(operation)
      .then(
        (result) => {
          metrics?.operationEnded(verb, 'ok', operation.elapsedMs());
          node.log.info('operation-done', {
            ...about,
            elapsedMs: Math.round(operation.elapsedMs()),
            bytesSent: operation.bytesSent,
          });
          write(Event.fromPartial({ result }));
          call.end();
        },
        (error: unknown) => {
          const failure = GantryError.from(error);
          const { reason, message } = failure;
          metrics?.operationEnded(verb, reason, operation.elapsedMs());
          node.log.warn('operation-failed', {
            ...about,
            reason,
            message,
            stack: reason === 'INTERNAL' ? failure.stack : undefined,
          });
          if (!call.cancelled) call.emit('error', toServiceError(failure));
        },
      )
      .finally(() => operations.delete(operation.id));
  };
  return {
    info: (_call, reply) => answer(reply, () => nodeInfo(node)),
    checkpoint: (call) =>
      run(call, 'checkpoint', call.request.container, (operation) => {
        const work = () => checkpoint(node, call.request, operation);
        if (!call.request.attached) return work();
        return attached(call, operation, work, () => rm(call.request.archive, { force: true }));
      }),
    resume: (call) => run(call, 'resume', call.request.container, (operation) => resume(node, call.request, operation)),
    restore: (call) => run(call, 'restore', call.request.source, (operation) => restore(node, call.request, operation)),
    preparePod: (call) =>
      run(call, 'prepare-pod', call.request.path, (operation) => {
        const work = () => preparePod(node, call.request, operation);
        return attached(call, operation, work, ({ sandboxId }) => discardPrepared(node, sandboxId));
      }),
    startPrepared: (call) =>
      run(call, 'start-prepared', call.request.container, (operation) => {
        const work = () => startPrepared(node, call.request, operation);
        return attached(call, operation, work, () => Promise.resolve());
      }),
    migrate: (call) =>
      run(call, 'migrate', call.request.container, (operation) => migrate(node, call.request, operation)),
    remove: (call) => run(call, 'remove', call.request.target, (operation) => remove(node, call.request, operation)),
    insert: (call) => run(call, 'insert', call.request.target, (operation) => insert(node, call.request, operation)),
    swap: (call) => run(call, 'swap', call.request.target, (operation) => swap(node, call.request, operation)),
    rollback: (call) =>
      run(call, 'rollback', call.request.target, (operation) => rollback(node, call.request, operation)),
    rollbackMigration: (call) =>
      run(call, 'rollback', call.request.migration, (operation) => rollBackMigration(node, call.request, operation)),
    commitMigration: (call) =>
      run(call, 'commit', call.request.migration, (operation) => commit(node, call.request.migration, operation)),
    releaseMigration: (call) =>
      run(call, 'release', call.request.migration, (operation) =>
        releaseAddresses(node, call.request.migration, operation),
      ),
    check: (call) => run(call, 'check', call.request.target, (operation) => check(node, call.request, operation)),
    cancel: (call, reply) => reply(null, { accepted: operations.get(call.request.operationId)?.cancel() ?? false }),
    listMigrations: (call, reply) => answer(reply, async () => ({ migrations: node.migrations.list(call.request.id) })),
    cancelMigration: (call, reply) => answer(reply, () => node.migrations.cancel(call.request.id)),
    watchMigrations: (call) => {
      const gone = new AbortController();
      call.on('cancelled', () => gone.abort());
      call.on('error', () => undefined);
      const tell = (event: MigrationEvent) => {
        if (!call.cancelled && call.writable) call.write(event);
      };
      node.migrations.watch(call.request.id, tell, gone.signal).then(
        () => call.end(),
        (error: unknown) => call.emit('error', toServiceError(error)),
      );
    },
  };
}

function answer<Response>(reply: sendUnaryData<Response>, work: () => Promise<Response>): void {
  work().then(
    (response) => reply(null, response),
    (error: unknown) => reply(toServiceError(error)),
  );
}

function toServiceError(error: unknown): Partial<ServiceError> {
  const { reason, message, hint } = GantryError.from(error);
  const metadata = new Metadata();
  metadata.set('gantry-reason', reason);
  metadata.set('gantry-hint-bin', Buffer.from(hint));
  return { code: REASONS[reason].grpc, details: message, metadata };
}

async function waitForRuntime(cri: Cri, config: AgentConfig, signal: AbortSignal): Promise<void> {
  const until = performance.now() + RUNTIME_WAIT_MS;
  for (;;) {
    try {
      await cri.version(signal);
      return;
    } catch (error) {
      if (performance.now() > until || signal.aborted) {
        throw new GantryError(
          'RUNTIME_UNAVAILABLE',
          `no runtime answers on ${config.runtimeSocket}: ${messageOf(error)}`,
        );
      }
      await sleep(100);
    }
  }
}

/** Two agents on one journal would each undo what the other does. */
async function refuseSecond(socket: string): Promise<void> {
  const answers = await new Promise<boolean>((resolve) => {
    const probe = connect(socket, () => {
      probe.destroy();
      resolve(true);
    });
    probe.on('error', () => resolve(false));
  });
  if (answers) throw new GantryError('BUSY', `another agent answers on ${socket}`, { hint: 'stop it first' });
}
