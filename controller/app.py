"""The composition root: build every part of the controller, run them, and end them in order."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from controller.akvsync.reconciler import AKVSyncReconciler
from controller.akvsync.selections import SelectionTracker
from controller.config.clouds import CloudRegistry
from controller.config.settings import Settings
from controller.keyvault.pool import VaultPool
from controller.keyvault.service_accounts import service_account_tokens
from controller.kube import config, permissions
from controller.kube.client import KubeClient
from controller.kube.event_recorder import EventRecorder
from controller.kube.informer import Informer, Kept
from controller.kube.leader_election import LeaderElector, NoElection
from controller.kube.metrics_access import MetricsAccess
from controller.kube.overlap import OverlapCheck
from controller.kube.policy_guard import PolicyGuard
from controller.observability.http_server import HttpServers
from controller.observability.server_certificate import ServerCertificate
from controller.observability.telemetry import Metrics
from controller.polling.poller import Poller
from controller.runtime import budgets
from controller.runtime.budgets import TotalBudget
from controller.runtime.threads.parsing import ParsingPool
from controller.secretsync.collector import SecretSyncCollector
from controller.secretsync.reconciler import Reconciler
from controller.secretsync.status_reporter import StatusReporter
from controller.secretsync.sync_resolver import SyncResolver
from controller.secretsync.syncer import Syncer
from controller.secretsync.value_fetcher import ValueFetcher

# Minimum seconds for which a vault's client and its token are kept after their last use.
MIN_IDLE_SECONDS = 600.0
# Seconds after SIGTERM in which running attempts can finish. The Deployment allows twice as many.
GRACE_SECONDS = 10
Runnable = Reconciler | Poller | AKVSyncReconciler
log = logging.getLogger("controller")


@dataclass(frozen=True)
class ControllerReadiness:
    """Determine whether the controller can do its work, for the readiness probe."""

    informers: Sequence[Informer[Any]]
    guard: PolicyGuard
    elector: LeaderElector | NoElection
    overlap: OverlapCheck

    def problems(self) -> list[str]:
        """Return why the controller is not ready, one text for each cause, or nothing if it is ready.

        A follower is ready, too, because it can take over. Otherwise an update would wait until it leads.
        """
        found = [item.problem or "listing" for item in self.informers if not item.synced.is_set()]
        found += [] if self.guard.in_force.is_set() else [self.guard.problem]
        return found + [problem for problem in (self.overlap.problem, self.elector.problem) if problem]


@dataclass(frozen=True)
class _ControllerSet:
    """The controllers of both kinds of objects, with the reporter and the event recorder that they use."""

    secretsync: Reconciler
    akvsync: AKVSyncReconciler | None
    reporter: StatusReporter
    events: EventRecorder

    def runnables(self) -> list[Runnable]:
        """Return the loops that keep state about vaults and objects."""
        return [self.secretsync, self.secretsync.poller, *([self.akvsync] if self.akvsync else [])]

    def loops(self) -> list[Runnable | EventRecorder]:
        """Return the loops that run while this process leads."""
        return [*self.runnables(), self.events]


@dataclass(frozen=True)
class _InformerSet:
    """The informers. Readiness waits for the lists of the `required` ones.

    The informers of AKVSyncs are optional, so that SecretSyncs are synced without the CRD of AKVSyncs.
    """

    required: list[Informer[Any]]
    optional: list[Informer[Any]]


async def run(settings: Settings) -> None:
    """Run the controller until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    async with _ship_logs(settings, metrics):
        await _run_parts(settings, metrics, stop)
        log.info("stopped")


def _ship_logs(settings: Settings, metrics: Metrics) -> contextlib.AbstractAsyncContextManager[None]:
    if not settings.otlp_endpoint:
        return contextlib.nullcontext()
    from controller.observability.otlp.shipper import ship_logs  # loaded only if logs are sent to a collector

    return ship_logs(settings, metrics)


async def _run_parts(settings: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    """Build all parts, and run them until `stop` is set. Then end the background tasks, and let attempts finish."""
    async with KubeClient(await config.find_config(os.environ)) as kube:
        overlap = OverlapCheck(kube, settings)
        elector = _new_elector(kube, settings, metrics, overlap)
        with_fence = kube.with_fence(elector.check)
        clouds = CloudRegistry(settings)
        vaults = VaultPool(
            clouds, service_account_tokens(with_fence), metrics.count_call, elector.check, metrics.count_no_token
        )
        controllers = _new_controllers(settings, metrics, with_fence, clouds, vaults)
        collector = SecretSyncCollector(controllers.secretsync.own_syncs, controllers.secretsync.last_equal)
        metrics.registry.register(collector)
        guard = PolicyGuard(kube, settings)
        informers = _new_informers(kube, settings.watch_namespaces or ("",), controllers)
        servers = HttpServers(
            metrics,
            ControllerReadiness(informers.required, guard, elector, overlap).problems,
            collector.take_syncs,
            certificate=ServerCertificate(Path(settings.metrics_tls_folder)) if settings.metrics_tls_folder else None,
            check=MetricsAccess(kube).check_request if settings.metrics_authentication else None,
        )
        try:
            ports = servers.start(settings.listen_address, settings.listen_port, settings.health_port)
            fields = {"port": ports[0], "health_port": ports[1], "settings": msgspec.to_builtins(settings)}
            log.info("started", extra={"fields": fields})
            idle_seconds = max(MIN_IDLE_SECONDS, 2.0 * settings.rotation_poll_interval)
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(coroutine)
                    for coroutine in (
                        *(informer.run() for informer in (*informers.required, *informers.optional)),
                        guard.run(),
                        clouds.watch_file(),
                        overlap.run(lambda: elector.leads),
                        _clean_up_periodically(controllers, metrics, vaults, idle_seconds),
                    )
                ]
                work = tasks.create_task(
                    _run_when_leading(informers.required, guard, overlap, elector, controllers.loops())
                )
                await stop.wait()
                log.info("stopping")
                for task in background:
                    task.cancel()
                # Running attempts can finish. The next leader does the remaining work.
                for loop in controllers.loops():
                    loop.close()
                await asyncio.wait([work], timeout=GRACE_SECONDS if elector.leads else 0)
                work.cancel()
        finally:
            await vaults.close()
            await servers.stop()


def _new_controllers(
    settings: Settings, metrics: Metrics, kube: KubeClient, clouds: CloudRegistry, vaults: VaultPool
) -> _ControllerSet:
    """Return the controllers. `kube` sends requests only while this process leads."""
    events = EventRecorder(kube, settings.pod_name, normal=settings.normal_events)
    reporter = StatusReporter(kube, events, metrics)
    parser = ParsingPool()
    resolver = SyncResolver(kube, settings, clouds, parser)
    syncer = Syncer(kube, settings, ValueFetcher(settings, vaults, parser), metrics)
    secretsync = Reconciler(settings, parser, resolver, syncer, vaults, reporter, metrics)
    if not settings.akv_sync:
        return _ControllerSet(secretsync, None, reporter, events)
    new_selections = partial(SelectionTracker, settings, vaults, secretsync.poller)
    akvsync = AKVSyncReconciler(kube, events, secretsync.syncs, secretsync.classes, new_selections)
    return _ControllerSet(secretsync, akvsync, reporter, events)


def _new_informers(kube: KubeClient, namespaces: Sequence[str], controllers: _ControllerSet) -> _InformerSet:
    """Return the informers of these namespaces; an empty name is the whole cluster."""
    kept: Kept = TotalBudget(budgets.KEPT)
    found = _InformerSet([], [])
    secretsync, akvsync = controllers.secretsync, controllers.akvsync
    for namespace in namespaces:
        # If the lists of a single namespace were refused, it is listed while the controller works. Then its SecretSyncs
        # must not seem to lack their classes, and its AKVSyncs not the objects that they generated.
        classes = Informer(kube, permissions.CLASSES, namespace, secretsync.classes, kept)
        first = classes if namespace else None
        syncs = Informer(kube, permissions.SECRET_SYNCS, namespace, secretsync.syncs, kept, after=first)
        found.required.extend((classes, syncs))
        if akvsync:
            second = syncs if namespace else None
            found.optional.append(Informer(kube, permissions.AKV_SYNCS, namespace, akvsync.store, kept, after=second))
    return found


def _new_elector(
    kube: KubeClient, settings: Settings, metrics: Metrics, overlap: OverlapCheck
) -> LeaderElector | NoElection:
    if not settings.lease_name:
        return NoElection(metrics.leader.set)
    # The kubelet restarts a crashed container under the same Pod name, but it is another process.
    identity = f"{settings.pod_name}_{secrets.token_hex(4)}"
    return LeaderElector(
        kube,
        settings.pod_namespace,
        settings.lease_name,
        identity,
        metrics.leader.set,
        lease_seconds=settings.lease_duration,
        renew_interval=settings.lease_renew_interval,
        may_lead=lambda: overlap.may_lead,
    )


async def _run_when_leading(
    informers: Sequence[Informer[Any]],
    guard: PolicyGuard,
    overlap: OverlapCheck,
    elector: LeaderElector | NoElection,
    loops: Sequence[Runnable | EventRecorder],
) -> None:
    """Run the loops while this process leads, after the required informers have listed everything.

    Only after a complete list is an object known to be missing. Nothing is known of a namespace whose lists are
    refused, so nothing is done there. AKVSyncs need not be listed, because none depends on another one.
    """
    for informer in informers:
        await informer.settled.wait()
    await guard.in_force.wait()
    # Before the first answer the process may not lead, and an attempt to take the Lease would only cause a pause.
    await overlap.is_checked.wait()
    log.info("listed", extra={"fields": dict(informer.count() for informer in informers)})

    async def lead() -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for loop in loops:
                    tasks.create_task(loop.work())
        finally:
            for loop in loops:
                loop.reset()

    await elector.run(lead)


async def _clean_up_periodically(
    controllers: _ControllerSet, metrics: Metrics, vaults: VaultPool, idle_seconds: float
) -> None:
    while True:
        await asyncio.sleep(30)
        controllers.reporter.flush_logs()
        for runnable in controllers.runnables():
            runnable.flush_logs()
        await vaults.evict_idle(idle_seconds)
        metrics.forget_vaults(vaults.vault_names())
