"""The program in the image: `python -P -m controller`. Its settings are environment variables; `--help` lists them."""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from asyncio import sslproto
from collections.abc import Sequence
from typing import Any

import msgspec

from controller import access, budgets, errors, permissions
from controller.accounts import assertions
from controller.akvsyncs import AKVSyncs
from controller.budgets import Totals
from controller.census import Census
from controller.clouds import Clouds
from controller.events import Events
from controller.http_server import Servers
from controller.kube import Kube
from controller.lease import Elector, Leader
from controller.policy_guard import PolicyGuard
from controller.poll import Poller
from controller.reconcile import Reconciler
from controller.reflector import Kept, Reflector
from controller.report import Reporter
from controller.settings import Settings, SettingsError
from controller.sync import Syncer
from controller.telemetry import Metrics, start_logging
from controller.vaults import Vaults

# Seconds that a vault's client and its token are kept at the least when nobody asks for them.
KEEP_UNUSED = 600.0
# What is under way when the pod is told to stop may end within this time; the Deployment gives twice as much.
GRACE_SECONDS = 10
# What asyncio keeps ready for each TLS connection, and takes for each read, is 256 KiB; nothing comes in larger pieces
# than a TLS record. With 60 connections at work that is 14 MiB.
TLS_BUFFER = 2**14
Talker = Reconciler | Poller | AKVSyncs
log = logging.getLogger("controller")


async def run(settings: Settings) -> None:
    """Everything, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    async with _shipping(settings, metrics):
        await _serve(settings, metrics, stop)
        log.info("stopped")


def _shipping(settings: Settings, metrics: Metrics) -> contextlib.AbstractAsyncContextManager[None]:
    if not settings.otlp_endpoint:
        return contextlib.nullcontext()
    from controller.otlp.shipper import shipping  # only who ships its logs has it

    return shipping(settings, metrics)


async def _serve(settings: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    async with Kube(await access.find(os.environ)) as kube:
        elector = _elector(kube, settings, metrics)
        fenced = kube.fenced(elector.check)
        clouds = Clouds(settings)
        vaults = Vaults(clouds, assertions(fenced), metrics.count_call, elector.check, metrics.count_no_token)
        events = Events(fenced, settings.pod_name)
        reporter = Reporter(fenced, events, metrics)
        syncer = Syncer(fenced, settings, clouds, vaults, metrics)
        reconciler = Reconciler(settings, syncer, vaults, reporter, metrics)
        census = Census(reconciler.ours)
        metrics.registry.register(census)
        akv_syncs = AKVSyncs(fenced, events, reconciler.syncs, reconciler.classes) if settings.akv_sync else None
        talkers: list[Talker] = [reconciler, reconciler.poller, *([akv_syncs] if akv_syncs else [])]
        loops: list[Talker | Events] = [*talkers, events]
        guard = PolicyGuard(kube, settings)
        namespaces = settings.watch_namespaces or ("",)
        kept: Kept = Totals(budgets.KEPT)
        reflectors: list[Reflector[Any]] = [
            reflector
            for namespace in namespaces
            for reflector in (
                Reflector(kube, permissions.CLASSES, namespace, reconciler.classes, kept),
                Reflector(kube, permissions.SECRET_SYNCS, namespace, reconciler.syncs, kept),
            )
        ]
        # Nobody waits for these to be ready: a cluster whose AKVSync CRD is still missing has its SecretSyncs served.
        akv_reflectors = [
            Reflector(kube, permissions.AKV_SYNCS, namespace, akv_syncs.store, kept)
            for namespace in namespaces
            if akv_syncs
        ]

        def problems() -> list[str]:
            # A follower is as ready as a leader: it could take over now, and an update must not wait for it to lead.
            found = [item.problem or "listing" for item in reflectors if not item.synced.is_set()]
            found += [] if guard.in_force.is_set() else [guard.problem]
            return found + ([elector.problem] if elector.problem else [])

        servers = Servers(metrics, problems, census.prepare)
        try:
            ports = servers.start(settings.listen_address, settings.listen_port, settings.health_port)
            fields = {"port": ports[0], "health_port": ports[1], "settings": msgspec.to_builtins(settings)}
            log.info("started", extra={"fields": fields})
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(item.run()) for item in (*reflectors, *akv_reflectors)]
                background += [tasks.create_task(guard.run()), tasks.create_task(clouds.follow())]
                unused = max(KEEP_UNUSED, 2.0 * settings.rotation_poll_interval)
                background.append(tasks.create_task(_tidy([reporter, *talkers], metrics, vaults, unused)))
                work = tasks.create_task(_work(reflectors, guard, elector, loops))
                await stop.wait()
                log.info("stopping")
                for task in background:
                    task.cancel()
                # What is under way may end; what was not begun is for the next leader.
                for loop in loops:
                    loop.close()
                await asyncio.wait([work], timeout=GRACE_SECONDS if elector.leads else 0)
                work.cancel()
        finally:
            await vaults.close()
            await servers.stop()


def _elector(kube: Kube, settings: Settings, metrics: Metrics) -> Elector | Leader:
    if not settings.lease_name:
        return Leader(metrics.leader.set)
    # The kubelet starts a crashed container again under the same pod's name: it is another process all the same.
    identity = f"{settings.pod_name}_{secrets.token_hex(4)}"
    return Elector(kube, settings.pod_namespace, settings.lease_name, identity, metrics.leader.set)


async def _work(
    reflectors: Sequence[Reflector[Any]],
    guard: PolicyGuard,
    elector: Elector | Leader,
    loops: Sequence[Talker | Events],
) -> None:
    """Works while this process leads, once everything was listed: what is not there then is really missing.

    AKVSyncs need not be listed: none depends on another, and their CRD may be missing.
    """
    for reflector in reflectors:
        await reflector.synced.wait()
    await guard.in_force.wait()
    log.info("listed", extra={"fields": dict(reflector.count() for reflector in reflectors)})

    async def lead() -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for loop in loops:
                    tasks.create_task(loop.work())
        finally:
            for loop in loops:
                loop.reset()

    await elector.run(lead)


async def _tidy(talkers: Sequence[Reporter | Talker], metrics: Metrics, vaults: Vaults, unused: float) -> None:
    while True:
        await asyncio.sleep(30)
        for talker in talkers:
            talker.flush()
        await vaults.drop_unused(unused)
        metrics.forget_vaults(vaults.names())


def _help() -> str:
    lines = ["settings (environment variables, or arguments: --log-level debug is LOG_LEVEL=debug; times in seconds):"]
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        described = getattr(field.type, "extra_json_schema", None) or {}
        lines.append(f"  {field.name.upper():28} {described.get('description', '')} (default: {field.default!r})")
    lines.append("  KUBECONFIG                   a kubeconfig, outside a pod; the image lacks what reads it")
    lines.append(f"  SERVICE_ACCOUNT_FOLDER       where token and ca.crt are (default: '{access.FOLDER}')")
    return "\n".join(lines)


def main() -> int:
    """Exit codes: 0 after SIGTERM, 2 for settings that cannot be used. `crds DIR` is the chart's upgrade Job."""
    if sys.argv[1:2] == ["crds"]:
        from controller import crds  # only the Job needs it

        return crds.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m controller",
        description="Copies secrets from Azure Key Vault into Kubernetes Secrets; `crds DIR` updates CRDs instead.",
        epilog=_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--setting VALUE ...] | crds DIR",
        allow_abbrev=False,
    )
    for field in Settings.__struct_fields__:
        parser.add_argument(f"--{field.replace('_', '-')}", dest=field.upper(), help=argparse.SUPPRESS)
    arguments = {name: text for name, text in vars(parser.parse_args()).items() if text is not None}
    try:
        settings = Settings.from_environment(os.environ | arguments)
        settings.clouds()
        start_logging(settings.log_level)
        sslproto.SSLProtocol.max_size = TLS_BUFFER
        asyncio.run(run(settings))
    except (SettingsError, errors.Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
