"""Telling: the status patch, the event and the log line of each outcome; a scripted API server listens."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest

from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.domain.status import Failed, Reportable, Synced, next_status
from controller.errors import ProviderError
from controller.kube.client import KubeClient
from controller.kube.event_recorder import BURST, MOST_NOTE, PER_SECOND, EventRecorder
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
AWAY = Failed(ProviderError("Key Vault shop is away"))
EMPTY = SecretSyncStatus()
SHOP = Key("team", "shop")


def status(outcome: Reportable, before: SecretSyncStatus = EMPTY, of: SecretSync | None = None) -> SecretSyncStatus:
    return next_status((of or make_sync()).metadata, before, make_provider_class(), outcome, NOON)


def edited(found: SecretSync) -> SecretSync:
    """Return the same at a later version."""
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, resource_version="9"))


def kept(status: object) -> ScriptedResponse:
    """Return the SecretSync with this status, as the API server keeps it from now on."""
    found = msgspec.to_builtins(make_sync())
    return ScriptedResponse(found | {"status": status, "metadata": found["metadata"] | {"resourceVersion": "8"}})


def keeps(asked: ReceivedRequest) -> ScriptedResponse:
    """Return the API server keeps what it is given."""
    return kept(json.loads(asked.body).get("status"))


class Scene:
    """A reporter and who listens to it."""

    def __init__(
        self, server: ScriptedApiServer, reporter: StatusReporter, events: EventRecorder, metrics: Metrics
    ) -> None:
        self.server = server
        self.events = events
        events.close()  # so that its work ends with what there is
        self.reporter = reporter
        self.metrics = metrics
        self.server.default_response = keeps
        self.syncs: Store[SecretSync] = Store()

    async def tells(
        self, before: SecretSyncStatus, after: SecretSyncStatus, of: SecretSync | None = None
    ) -> ReportResult:
        told = await self.reporter.report_status(self.syncs, (of or make_sync()).metadata, before, after)
        await self.events.work()
        return told

    def sent(self, what: str) -> list[dict[str, Any]]:
        """Return the bodies sent to a path that ends so."""
        return [json.loads(asked.body) for asked in self.server.requests if asked.path.endswith(what)]

    @property
    def unready(self) -> float | None:
        return self.metrics.registry.get_sample_value("akv_secret_store_not_ready")


@pytest.fixture
async def scene(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Scene]:
    caplog.set_level(logging.INFO)
    async with connect_to_api_server() as (server, kube):
        metrics = Metrics()
        events = EventRecorder(kube, "pod-1")
        yield Scene(server, StatusReporter(kube, events, metrics), events, metrics)


# The status


async def test_the_status_names_every_field_so_that_none_stays_behind(scene: Scene) -> None:
    assert await scene.tells(EMPTY, status(AWAY)) is ReportResult.DONE
    (body,) = scene.sent("/secretsyncs/shop/status")
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
    assert read_back == status(AWAY)


async def test_an_equal_status_is_not_written(scene: Scene) -> None:
    assert await scene.tells(status(AWAY), status(AWAY, status(AWAY))) is ReportResult.DONE
    assert not scene.server.requests


@pytest.mark.parametrize(
    "answer",
    [error_response(500), error_response(403, "no"), error_response(422, "invalid"), ScriptedResponse(b"<html>")],
)
async def test_a_status_that_is_not_taken_is_no_news_and_asked_for_again(
    scene: Scene, answer: ScriptedResponse
) -> None:
    scene.server.add_responses(answer)
    assert await scene.tells(EMPTY, status(AWAY)) is ReportResult.NOT_WRITTEN
    assert not scene.sent("/events")


async def test_an_object_that_changed_meanwhile_is_looked_at_again(scene: Scene) -> None:
    scene.server.add_responses(error_response(409))
    assert await scene.tells(EMPTY, status(AWAY)) is ReportResult.OUTDATED
    assert not scene.sent("/events")


async def test_what_was_written_stands_before_a_watch_brings_it(scene: Scene) -> None:
    scene.syncs.put(make_sync())
    await scene.tells(EMPTY, status(WRITTEN))
    found = scene.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    assert found.status == status(WRITTEN)
    assert found.metadata.resource_version == "8"


@pytest.mark.parametrize(
    "newer",
    [
        pytest.param(make_sync(uid="another"), id="one made anew"),
        pytest.param(edited(make_sync(("other",), generation=2)), id="one edited since"),
        pytest.param(None, id="one that is gone"),
    ],
)
async def test_but_not_where_a_watch_was_faster(scene: Scene, newer: SecretSync | None) -> None:
    if newer:
        scene.syncs.put(newer)
    await scene.tells(EMPTY, status(WRITTEN))
    assert scene.syncs.get(SHOP) is newer


async def test_one_that_was_deleted_meanwhile_is_forgotten(scene: Scene) -> None:
    scene.server.add_responses(error_response(404))
    assert await scene.tells(EMPTY, status(AWAY)) is ReportResult.DONE
    assert scene.unready == 0


async def test_a_crd_that_drops_our_fields_is_named(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.server.add_responses(kept({"conditions": []}))
    await scene.tells(EMPTY, status(WRITTEN))
    assert "drops status.objects: apply this chart's CRDs" in caplog.text


async def test_the_gauge_counts_who_is_not_ready(scene: Scene) -> None:
    other = make_sync(name="other")
    await scene.tells(EMPTY, status(AWAY))
    await scene.tells(EMPTY, status(AWAY, of=other), of=other)
    assert scene.unready == 2
    await scene.tells(status(AWAY), status(WRITTEN, status(AWAY)))
    assert scene.unready == 1
    scene.reporter.forget("team", "other")
    assert scene.unready == 0


# News


@pytest.mark.parametrize(
    ("before", "outcome", "news"),
    [
        pytest.param(EMPTY, WRITTEN, True, id="the first word"),
        pytest.param(status(SAME), AWAY, True, id="a failure"),
        pytest.param(status(AWAY), SAME, True, id="well again"),
        pytest.param(status(SAME), WRITTEN, True, id="a new value"),
        pytest.param(status(WRITTEN), SAME, False, id="nothing new in the vault"),
        pytest.param(
            status(AWAY), Failed(ProviderError("Key Vault shop is away", retry_after=5.0)), False, id="the same failure"
        ),
    ],
)
async def test_only_news_is_an_event_and_a_line(
    scene: Scene, caplog: pytest.LogCaptureFixture, before: SecretSyncStatus, outcome: Reportable, news: bool
) -> None:
    await scene.tells(before, status(outcome, before))
    assert len(scene.sent("/events")) == len(caplog.records) == (1 if news else 0)


@pytest.mark.parametrize(("outcome", "kind", "level"), [(WRITTEN, "Normal", "INFO"), (AWAY, "Warning", "WARNING")])
async def test_event_and_line_say_the_same(
    scene: Scene, caplog: pytest.LogCaptureFixture, outcome: Reportable, kind: str, level: str
) -> None:
    await scene.tells(EMPTY, status(outcome))
    (event,) = scene.sent("/apis/events.k8s.io/v1/namespaces/team/events")
    assert (event["type"], event["reason"], event["note"]) == (kind, outcome.reason, outcome.message)
    assert event["regarding"]["uid"] == make_sync().metadata.uid
    assert event["reportingInstance"] == "pod-1"
    assert event["metadata"]["name"].startswith("shop.")
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage() == f"team/shop: {outcome.message}"
    assert vars(record)["fields"] == {"secretsync": "team/shop", "reason": outcome.reason}


async def test_an_event_that_is_refused_changes_nothing(scene: Scene) -> None:
    scene.server.add_responses(kept({"objects": []}), error_response(403))
    assert await scene.tells(EMPTY, status(AWAY)) is ReportResult.DONE


async def test_of_a_namespace_that_is_gone_nothing_more_is_told(scene: Scene) -> None:
    scene.server.add_responses(error_response(404))
    for number in range(3):
        scene.events.say(make_sync().metadata, "Normal", "Synced", f"number {number}")
    await scene.events.work()
    assert len(scene.sent("/events")) == 1


async def test_an_endless_message_is_cut_in_event_and_line(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    await scene.tells(EMPTY, status(Failed(ProviderError("x" * 32_000))))
    (event,) = scene.sent("/events")
    assert len(event["note"]) == MOST_NOTE
    assert len(caplog.text) < 2000


async def test_a_thousand_failures_do_not_flood_the_log(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(300):
        one = make_sync(name=f"s{number}")
        failed = Failed(ProviderError(f"secret {number} is not in Key Vault shop"))
        await scene.tells(EMPTY, status(failed, of=one), of=one)
    assert len(caplog.records) == LINES_A_MINUTE
    assert scene.unready == 300


# What was synced all the same


async def test_what_a_person_should_look_at_is_told_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    meta = make_sync().metadata
    for warnings in (["a expired", "b lacks"], ["a expired", "b lacks"], ["b lacks"], *[["b lacks", "c expired"]] * 2):
        scene.reporter.report_warnings(meta, warnings)
    await scene.events.work()
    told = [(event["type"], event["reason"], event["note"]) for event in scene.sent("/events")]
    assert told == [("Warning", ATTENTION, "a expired; b lacks"), ("Warning", ATTENTION, "c expired")]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "team/shop: c expired" in caplog.text


async def test_what_was_mended_and_comes_back_is_told_again(scene: Scene) -> None:
    for warnings in (["a expired"], [], ["a expired"]):
        scene.reporter.report_warnings(make_sync().metadata, warnings)
    scene.reporter.forget("team", "shop")
    scene.reporter.report_warnings(make_sync().metadata, ["a expired"])
    await scene.events.work()
    assert len(scene.sent("/events")) == 3


def test_of_many_events_at_once_most_come_later_and_the_end_does_not_wait_for_them() -> None:
    class Clocked:
        """Takes what is created, with the moment of it."""

        def __init__(self, clock: Callable[[], float]) -> None:
            self.clock = clock
            self.moments: list[float] = []

        async def call(self, *_: object, **__: object) -> bytes:
            self.moments.append(self.clock())
            return b"{}"

    async def main(clock: Callable[[], float]) -> list[float]:
        kube = Clocked(clock)
        events = EventRecorder(cast("KubeClient", kube), "pod-1")
        for number in range(2 * BURST):
            events.say(make_sync().metadata, "Normal", "Synced", f"number {number}")
        work = asyncio.create_task(events.work())
        await asyncio.sleep(1)
        assert len(kube.moments) == BURST + PER_SECOND
        events.close()
        await work
        return kube.moments

    moments = virtual_time.run_virtual(main)
    assert len(moments) == 2 * BURST
    assert moments[BURST - 1] == 0
    assert moments[-1] == pytest.approx(1)


async def test_unexpected_failure_loses_one_event_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        """Fails on the first event in a way that nothing foresees."""

        def __init__(self) -> None:
            self.notes: list[str] = []

        async def call(self, *_: object, body: dict[str, Any], **__: object) -> bytes:
            self.notes.append(body["note"])
            if len(self.notes) == 1:
                raise RuntimeError("canary of a value")
            return b"{}"

    kube = Failing()
    events = EventRecorder(cast("KubeClient", kube), "pod-1")
    for note in ("first", "second"):
        events.say(make_sync().metadata, "Warning", "ProviderError", note)
    events.close()
    await events.work()
    assert kube.notes == ["first", "second"]
    assert "unexpected RuntimeError" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(("normal", "notes"), [(True, ["in order", "not in order"]), (False, ["not in order"])])
async def test_normal_events_can_be_turned_off(normal: bool, notes: list[str]) -> None:
    sent: list[str] = []

    class Kept:
        """Keep the note of each event."""

        async def call(self, *_: object, body: dict[str, Any], **__: object) -> bytes:
            sent.append(body["note"])
            return b"{}"

    events = EventRecorder(cast("KubeClient", Kept()), "pod-1", normal=normal)
    events.say(make_sync().metadata, "Normal", "Synced", "in order")
    events.say(make_sync().metadata, "Warning", "ProviderError", "not in order")
    events.close()
    await events.work()
    assert sent == notes


def test_flood_of_one_namespace_hides_no_event_of_another() -> None:
    """An editor's SecretSyncs fail a thousand times a minute; a neighbour's event is sent within a second."""

    class Clocked:
        """Takes what is created, with the moment of it."""

        def __init__(self, clock: Callable[[], float]) -> None:
            self.clock = clock
            self.sent: list[tuple[str, float]] = []

        async def call(self, *_: object, body: dict[str, Any], **__: object) -> bytes:
            self.sent.append((body["metadata"]["namespace"], self.clock()))
            return b"{}"

    async def main(clock: Callable[[], float]) -> list[tuple[str, float]]:
        kube = Clocked(clock)
        events = EventRecorder(cast("KubeClient", kube), "pod-1", clock)
        work = asyncio.create_task(events.work())
        neighbour = msgspec.structs.replace(make_sync().metadata, namespace="neighbour")
        for second in range(120):
            for number in range(100):
                events.say(make_sync().metadata, "Warning", "ProviderError", f"number {number}")
            if second == 60:
                events.say(neighbour, "Warning", "ProviderError", "the neighbour's")
            assert sum(map(len, events.waiting.values())) <= 2 * budgets.EVENTS.most
            await asyncio.sleep(1)
        events.close()
        await work
        return kube.sent

    sent = virtual_time.run_virtual(main)
    (at,) = [moment for namespace, moment in sent if namespace == "neighbour"]
    assert 59.9 <= at <= 61
    assert len(sent) - 1 <= 3 * budgets.EVENTS.most
