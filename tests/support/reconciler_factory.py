"""Build a reconciler of SecretSyncs on the clock of an event loop, with one stand-in for all parts that do I/O."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from controller.config.settings import Settings
from controller.observability.telemetry import Metrics
from controller.runtime.clock import Clock
from controller.runtime.threads.parsing import ParsingPool
from controller.secretsync.reconciler import Reconciler

if TYPE_CHECKING:
    from controller.keyvault.pool import VaultPool
    from controller.secretsync.status_reporter import StatusReporter
    from controller.secretsync.sync_resolver import SyncResolver
    from controller.secretsync.syncer import Syncer

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
"""The time of day at which the event loop's clock shows 0."""


def build_reconciler(
    stand_in: object, settings: Settings, loop: asyncio.AbstractEventLoop, metrics: Metrics, rng: random.Random
) -> Reconciler:
    """Return a reconciler. `stand_in` acts as SyncResolver, Syncer, VaultPool and StatusReporter."""
    return Reconciler(
        settings,
        ParsingPool(),
        cast("SyncResolver", stand_in),
        cast("Syncer", stand_in),
        cast("VaultPool", stand_in),
        cast("StatusReporter", stand_in),
        metrics,
        rng,
        Clock(loop.time, lambda: NOON + timedelta(seconds=loop.time())),
    )
