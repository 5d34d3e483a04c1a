"""Test the status patch, the event and the log line of each outcome, with a scripted API server."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from controller.api.meta import Unreadable, is_object_name
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.domain.status import Failed, Reportable, Synced, next_status
from controller.errors import InputError, ProviderError
from controller.kube.client import KubeClient
from controller.kube.event_recorder import BURST, MAX_NOTE, MAX_WAIT, PAUSE, PER_SECOND, EventRecorder
from controller.kube.informer import Store
from controller.observability.telemetry import LINES_A_MINUTE, Metrics
from controller.runtime import budgets
from controller.runtime.work_queue import Key
from controller.secretsync.status_reporter import ATTENTION, ReportResult, StatusReporter
from tests.support import virtual_time
from tests.support.builders import make_provider_class, make_sync
from tests.support.scripted_api_server import (
    ReceivedRequest,
    ScriptedApiServer,
    ScriptedResponse,
    connect_to_api_server,
    error_response,
)

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
USER = ObjectVersion(target_key="user", object="secret/user", version="v1")
WRITTEN = Synced(message="1 key written", changed=True, objects=[USER])
SAME = Synced(message="1 key equal", objects=[USER])
UNREACHABLE = Failed(ProviderError("Key Vault shop is away"))
EMPTY = SecretSyncStatus()
SHOP = Key("team", "shop")


def make_status(
    outcome: Reportable, before: SecretSyncStatus = EMPTY, sync: SecretSync | None = None
) -> SecretSyncStatus:
    return next_status((sync or make_sync()).metadata, before, make_provider_class(), outcome, NOON)


def set_later_version(found: SecretSync) -> SecretSync:
    """Return the SecretSync with a later resourceVersion."""
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, resource_version="9"))


def make_status_response(status: object) -> ScriptedResponse:
    """Return the response of an API server that stores this status."""
    found = msgspec.to_builtins(make_sync())
    return ScriptedResponse(found | {"status": status, "metadata": found["metadata"] | {"resourceVersion": "8"}})


def store_status(request: ReceivedRequest) -> ScriptedResponse:
    """Return the response of an API server that stores the status of the request."""
    return make_status_response(json.loads(request.body).get("status"))


class ReporterHarness:
    """A reporter, its API server and its metrics."""

    def __init__(
        self, server: ScriptedApiServer, reporter: StatusReporter, events: EventRecorder, metrics: Metrics
    ) -> None:
        self.server = server
        self.events = events
        events.close()  # so that work() ends when all events are sent
        self.reporter = reporter
        self.metrics = metrics
        self.server.default_response = store_status
        self.syncs: Store[SecretSync] = Store()

    async def report(
        self, before: SecretSyncStatus, after: SecretSyncStatus, sync: SecretSync | None = None
    ) -> ReportResult:
        result = await self.reporter.report_status(self.syncs, (sync or make_sync()).metadata, before, after)
        await self.events.work()
        return result

    def sent_to(self, path: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests whose path has this suffix."""
        return [json.loads(request.body) for request in self.server.requests if request.path.endswith(path)]

    @property
    def not_ready_count(self) -> float | None:
        return self.metrics.registry.get_sample_value("akv_secret_store_not_ready")


@pytest.fixture
async def harness(caplog: pytest.LogCaptureFixture) -> AsyncIterator[ReporterHarness]:
    caplog.set_level(logging.INFO)
    async with connect_to_api_server() as (server, kube):
        metrics = Metrics()
        events = EventRecorder(kube, "pod-1")
        yield ReporterHarness(server, StatusReporter(kube, events, metrics), events, metrics)


# The status


async def test_status_of_an_unreadable_object_keeps_what_the_next_sync_needs(harness: ReporterHarness) -> None:
    """The stored status of the object is unknown, so the patch must not replace it."""
    found = Unreadable(metadata=make_sync().metadata, problem="it is too large")
    harness.syncs.set(found)
    before = SecretSyncStatus(sync_hash="unknown")
    assert await harness.report(before, make_status(Failed(InputError("too large")), before)) is ReportResult.DONE
    (body,) = harness.sent_to("/secretsyncs/shop/status")
    assert body["status"].keys() == {"conditions", "observedGeneration"}
    assert {each["type"]: each["status"] for each in body["status"]["conditions"]} == {
        "Ready": "False",
        "SecretCreated": "Unknown",
        "SecretUpdated": "False",
        "Stalled": "True",
    }
    # Only the informer may store the object, because it counts the bytes of each namespace.
    assert harness.syncs.get(SHOP) == found


async def test_status_patch_has_every_field_so_that_no_old_value_remains(harness: ReporterHarness) -> None:
    assert await harness.report(EMPTY, make_status(UNREACHABLE)) is ReportResult.DONE
    (body,) = harness.sent_to("/secretsyncs/shop/status")
    assert body["metadata"] == {"resourceVersion": "7"}
    assert set(body["status"]) == {
        "conditions",
        "lastSuccessfulSyncTime",
        "lastGroupPoll",
        "syncHash",
        "observedGeneration",
        "objects",
    }
    assert body["status"]["lastSuccessfulSyncTime"] is None
    assert body["status"]["objects"] == []
    assert {item["type"] for item in body["status"]["conditions"]} == {"Ready", "SecretCreated", "SecretUpdated"}
    read_back = msgspec.convert(body["status"], SecretSyncStatus)
    assert read_back == make_status(UNREACHABLE)


async def test_equal_status_is_not_written(harness: ReporterHarness) -> None:
    assert (
        await harness.report(make_status(UNREACHABLE), make_status(UNREACHABLE, make_status(UNREACHABLE)))
        is ReportResult.DONE
    )
    assert not harness.server.requests


@pytest.mark.parametrize(
    "answer",
    [error_response(500), error_response(403, "no"), error_response(422, "invalid"), ScriptedResponse(b"<html>")],
)
async def test_refused_status_is_reported_as_not_written_and_sends_no_event(
    harness: ReporterHarness, answer: ScriptedResponse
) -> None:
    harness.server.add_responses(answer)
    assert await harness.report(EMPTY, make_status(UNREACHABLE)) is ReportResult.NOT_WRITTEN
    assert not harness.sent_to("/events")


async def test_status_conflict_is_reported_as_outdated_and_sends_no_event(harness: ReporterHarness) -> None:
    harness.server.add_responses(error_response(409))
    assert await harness.report(EMPTY, make_status(UNREACHABLE)) is ReportResult.OUTDATED
    assert not harness.sent_to("/events")


async def test_written_status_is_in_the_store_before_the_watch_delivers_it(harness: ReporterHarness) -> None:
    harness.syncs.set(make_sync())
    await harness.report(EMPTY, make_status(WRITTEN))
    found = harness.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    assert found.status == make_status(WRITTEN)
    assert found.metadata.resource_version == "8"


@pytest.mark.parametrize(
    "newer",
    [
        pytest.param(make_sync(uid="another"), id="recreated"),
        pytest.param(set_later_version(make_sync(("other",), generation=2)), id="edited"),
        pytest.param(None, id="deleted"),
    ],
)
async def test_written_status_does_not_replace_a_newer_object_in_the_store(
    harness: ReporterHarness, newer: SecretSync | None
) -> None:
    if newer:
        harness.syncs.set(newer)
    await harness.report(EMPTY, make_status(WRITTEN))
    assert harness.syncs.get(SHOP) == newer


async def test_status_of_a_deleted_secretsync_is_dropped(harness: ReporterHarness) -> None:
    harness.server.add_responses(error_response(404))
    assert await harness.report(EMPTY, make_status(UNREACHABLE)) is ReportResult.DONE
    assert harness.not_ready_count == 0


async def test_crd_that_drops_a_status_field_is_logged(
    harness: ReporterHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.server.add_responses(make_status_response({"conditions": []}))
    await harness.report(EMPTY, make_status(WRITTEN))
    assert "drops status.objects: apply this chart's CRDs" in caplog.text


async def test_gauge_counts_secretsyncs_that_are_not_ready(harness: ReporterHarness) -> None:
    other = make_sync(name="other")
    await harness.report(EMPTY, make_status(UNREACHABLE))
    await harness.report(EMPTY, make_status(UNREACHABLE, sync=other), sync=other)
    assert harness.not_ready_count == 2
    await harness.report(make_status(UNREACHABLE), make_status(WRITTEN, make_status(UNREACHABLE)))
    assert harness.not_ready_count == 1
    harness.reporter.forget("team", "other")
    assert harness.not_ready_count == 0


# Changes


@pytest.mark.parametrize(
    ("before", "outcome", "is_change"),
    [
        pytest.param(EMPTY, WRITTEN, True, id="first status"),
        pytest.param(make_status(SAME), UNREACHABLE, True, id="failure"),
        pytest.param(make_status(UNREACHABLE), SAME, True, id="recovery"),
        pytest.param(make_status(SAME), WRITTEN, True, id="new value"),
        pytest.param(make_status(WRITTEN), SAME, False, id="unchanged in the vault"),
        pytest.param(
            make_status(UNREACHABLE),
            Failed(ProviderError("Key Vault shop is away", retry_after=5.0)),
            False,
            id="same failure",
        ),
    ],
)
async def test_only_a_change_sends_an_event_and_logs_a_line(
    harness: ReporterHarness,
    caplog: pytest.LogCaptureFixture,
    before: SecretSyncStatus,
    outcome: Reportable,
    is_change: bool,
) -> None:
    await harness.report(before, make_status(outcome, before))
    assert len(harness.sent_to("/events")) == len(caplog.records) == (1 if is_change else 0)


@pytest.mark.parametrize(
    ("outcome", "kind", "level"), [(WRITTEN, "Normal", "INFO"), (UNREACHABLE, "Warning", "WARNING")]
)
async def test_event_and_log_line_have_the_same_content(
    harness: ReporterHarness, caplog: pytest.LogCaptureFixture, outcome: Reportable, kind: str, level: str
) -> None:
    await harness.report(EMPTY, make_status(outcome))
    (event,) = harness.sent_to("/apis/events.k8s.io/v1/namespaces/team/events")
    assert (event["type"], event["reason"], event["note"]) == (kind, outcome.reason, outcome.message)
    assert event["regarding"]["uid"] == make_sync().metadata.uid
    assert event["reportingInstance"] == "pod-1"
    assert event["metadata"]["name"].startswith("shop.")
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage() == f"team/shop: {outcome.message}"
    assert vars(record)["fields"] == {"secretsync": "team/shop", "reason": outcome.reason}


async def test_refused_event_does_not_change_the_result(harness: ReporterHarness) -> None:
    harness.server.add_responses(make_status_response({"objects": []}), error_response(403))
    assert await harness.report(EMPTY, make_status(UNREACHABLE)) is ReportResult.DONE


async def test_events_of_a_deleted_namespace_are_dropped(harness: ReporterHarness) -> None:
    harness.server.add_responses(error_response(404))
    for number in range(3):
        harness.events.record(make_sync().metadata, "Normal", "Synced", f"number {number}")
    await harness.events.work()
    assert len(harness.sent_to("/events")) == 1


async def test_long_message_is_cut_in_event_and_log_line(
    harness: ReporterHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.report(EMPTY, make_status(Failed(ProviderError("x" * 32_000))))
    (event,) = harness.sent_to("/events")
    assert len(event["note"]) == MAX_NOTE
    assert len(caplog.text) < 2000


async def test_note_is_cut_to_the_bytes_that_the_api_server_accepts(harness: ReporterHarness) -> None:
    for first in ("", "x"):
        await harness.report(EMPTY, make_status(Failed(ProviderError(first + "ü" * 2_000))))
    for event in harness.sent_to("/events"):
        assert MAX_NOTE - 2 <= len(event["note"].encode()) <= MAX_NOTE
        assert event["note"].endswith("ü...")


async def test_many_failures_do_not_flood_the_log(harness: ReporterHarness, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(300):
        sync = make_sync(name=f"s{number}")
        failed = Failed(ProviderError(f"secret {number} is not in Key Vault shop"))
        await harness.report(EMPTY, make_status(failed, sync=sync), sync=sync)
    assert len(caplog.records) == LINES_A_MINUTE
    assert harness.not_ready_count == 300


# Warnings of a successful sync


async def test_warning_is_reported_once(harness: ReporterHarness, caplog: pytest.LogCaptureFixture) -> None:
    meta = make_sync().metadata
    for warnings in (["a expired", "b lacks"], ["a expired", "b lacks"], ["b lacks"], *[["b lacks", "c expired"]] * 2):
        harness.reporter.report_warnings(meta, warnings)
    await harness.events.work()
    notes = [(event["type"], event["reason"], event["note"]) for event in harness.sent_to("/events")]
    assert notes == [("Warning", ATTENTION, "a expired; b lacks"), ("Warning", ATTENTION, "c expired")]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "team/shop: c expired" in caplog.text


async def test_warning_that_returns_is_reported_again(harness: ReporterHarness) -> None:
    for warnings in (["a expired"], [], ["a expired"]):
        harness.reporter.report_warnings(make_sync().metadata, warnings)
    harness.reporter.forget("team", "shop")
    harness.reporter.report_warnings(make_sync().metadata, ["a expired"])
    await harness.events.work()
    assert len(harness.sent_to("/events")) == 3


class SentEvent(NamedTuple):
    """An event that reached the API server."""

    namespace: str
    note: str
    moment: float


class RecordingClient:
    """An API client that records each event, with the time of its request."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.sent: list[SentEvent] = []

    @property
    def moments(self) -> list[float]:
        """Return the times of the requests."""
        return [event.moment for event in self.sent]

    async def call(self, *_: object, body: dict[str, Any], **__: object) -> bytes:
        self.sent.append(SentEvent(body["metadata"]["namespace"], body["note"], self.clock()))
        return b"{}"


def test_events_beyond_the_burst_are_delayed_until_the_recorder_closes() -> None:
    async def main(clock: Callable[[], float]) -> list[float]:
        kube = RecordingClient(clock)
        events = EventRecorder(cast("KubeClient", kube), "pod-1")
        for number in range(2 * BURST):
            events.record(make_sync().metadata, "Normal", "Synced", f"number {number}")
        work = asyncio.create_task(events.work())
        await asyncio.sleep(PAUSE + 1)
        assert len(kube.moments) == BURST + PER_SECOND
        events.close()
        await work
        return kube.moments

    moments = virtual_time.run_virtual(main)
    assert len(moments) == 2 * BURST
    assert moments[0] == moments[BURST - 1] == PAUSE
    assert moments[-1] == pytest.approx(PAUSE + 1)


@pytest.mark.parametrize(
    ("seconds", "closed", "first"),
    [(0, None, PAUSE), (2, None, 1.9 + PAUSE), (20, None, MAX_WAIT), (20, 1.0, 1.0)],
    ids=["one event", "two seconds of events", "longer than the maximum wait", "closed meanwhile"],
)
def test_events_wait_until_no_more_are_recorded(seconds: float, closed: float | None, first: float) -> None:
    async def main(clock: Callable[[], float]) -> list[float]:
        kube = RecordingClient(clock)
        events = EventRecorder(cast("KubeClient", kube), "pod-1")
        work = asyncio.create_task(events.work())
        if closed:
            asyncio.get_running_loop().call_later(closed, events.close)
        for number in range(max(1, round(seconds * 10))):
            events.record(make_sync().metadata, "Normal", "Synced", f"number {number}")
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        events.close()
        await work
        return kube.moments

    assert virtual_time.run_virtual(main)[0] == pytest.approx(first)


async def test_unexpected_failure_loses_only_one_event(caplog: pytest.LogCaptureFixture) -> None:
    class FailingClient:
        """An API client whose first request fails with an unexpected error."""

        def __init__(self) -> None:
            self.notes: list[str] = []

        async def call(self, *_: object, body: dict[str, Any], **__: object) -> bytes:
            self.notes.append(body["note"])
            if len(self.notes) == 1:
                raise RuntimeError("canary of a value")
            return b"{}"

    kube = FailingClient()
    events = EventRecorder(cast("KubeClient", kube), "pod-1")
    for note in ("first", "second"):
        events.record(make_sync().metadata, "Warning", "ProviderError", note)
    events.close()
    await events.work()
    assert kube.notes == ["first", "second"]
    assert "unexpected RuntimeError" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(("normal", "notes"), [(True, ["synced", "failed"]), (False, ["failed"])])
async def test_normal_events_can_be_turned_off(normal: bool, notes: list[str]) -> None:
    kube = RecordingClient()
    events = EventRecorder(cast("KubeClient", kube), "pod-1", normal=normal)
    events.record(make_sync().metadata, "Normal", "Synced", "synced")
    events.record(make_sync().metadata, "Warning", "ProviderError", "failed")
    events.close()
    await events.work()
    assert [event.note for event in kube.sent] == notes


@pytest.mark.parametrize("name", ["a" * 228 + "--" + "b" * 20, "a" * 229 + "." + "b" * 20], ids=["dashes", "a dot"])
async def test_event_of_an_object_with_a_long_name_has_a_valid_name(harness: ReporterHarness, name: str) -> None:
    meta = msgspec.structs.replace(make_sync().metadata, name=name)
    harness.events.record(meta, "Warning", "ProviderError", "failed")
    harness.events.close()
    await harness.events.work()
    (body,) = harness.sent_to("/events")
    assert is_object_name(body["metadata"]["name"])


def test_flood_of_one_namespace_hides_no_event_of_another() -> None:
    """One namespace has thousands of failures a minute. The event of another namespace is sent within a second."""

    async def main(clock: Callable[[], float]) -> list[SentEvent]:
        kube = RecordingClient(clock)
        events = EventRecorder(cast("KubeClient", kube), "pod-1", clock)
        work = asyncio.create_task(events.work())
        neighbour = msgspec.structs.replace(make_sync().metadata, namespace="neighbour")
        for second in range(120):
            for number in range(100):
                events.record(make_sync().metadata, "Warning", "ProviderError", f"number {number}")
            if second == 60:
                events.record(neighbour, "Warning", "ProviderError", "event of the neighbour")
            assert sum(map(len, events.waiting.values())) <= 2 * budgets.EVENTS.limit
            await asyncio.sleep(1)
        events.close()
        await work
        return kube.sent

    sent = virtual_time.run_virtual(main)
    (moment,) = [event.moment for event in sent if event.namespace == "neighbour"]
    assert 59.9 <= moment <= 61
    assert len(sent) - 1 <= 3 * budgets.EVENTS.limit
