"""Telling: the status patch, the event and the log line of each outcome; a scripted API server listens."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest

from controller import budgets
from controller.api.conditions import Reason
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.events import BURST, MOST_NOTE, PER_SECOND, Events
from controller.kube import Kube
from controller.queue import Key
from controller.reflector import Store
from controller.report import ATTENTION, Reporter
from controller.status import Outcome, next_status
from controller.sync import Again
from controller.telemetry import LINES_A_MINUTE, Metrics
from tests.unit import virtual
from tests.unit.api_server import Answer, ApiServer, Asked, connected, refusal
from tests.unit.objects_of import provider_class, sync

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
USER = ObjectVersion(target_key="user", object="secret/user", version="v1")
WRITTEN = Outcome(reason=Reason.WRITTEN, message="1 key written", ready=True, equal=True, exists=True, objects=[USER])
SAME = Outcome(reason=Reason.UP_TO_DATE, message="1 key equal", ready=True, equal=True, exists=True, objects=[USER])
AWAY = Outcome(reason=Reason.PROVIDER_ERROR, message="Key Vault shop is away", ready=False)
EMPTY = SecretSyncStatus()
SHOP = Key("team", "shop")


def status(outcome: Outcome, before: SecretSyncStatus = EMPTY, of: SecretSync | None = None) -> SecretSyncStatus:
    return next_status((of or sync()).metadata, before, provider_class(), outcome, NOON)


def edited(found: SecretSync) -> SecretSync:
    """The same at a later version."""
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, resource_version="9"))


def kept(status: object) -> Answer:
    """The SecretSync with this status, as the API server keeps it from now on."""
    found = msgspec.to_builtins(sync())
    return Answer(found | {"status": status, "metadata": found["metadata"] | {"resourceVersion": "8"}})


def keeps(asked: Asked) -> Answer:
    """The API server keeps what it is given."""
    return kept(json.loads(asked.body).get("status"))


class Scene:
    """A reporter and who listens to it."""

    def __init__(self, server: ApiServer, reporter: Reporter, events: Events, metrics: Metrics) -> None:
        self.server = server
        self.events = events
        events.close()  # so that its work ends with what there is
        self.reporter = reporter
        self.metrics = metrics
        self.server.otherwise = keeps
        self.syncs: Store[SecretSync] = Store()

    async def tells(self, before: SecretSyncStatus, after: SecretSyncStatus, of: SecretSync | None = None) -> bool:
        told = await self.reporter.report(self.syncs, (of or sync()).metadata, before, after)
        await self.events.work()
        return told

    def sent(self, what: str) -> list[dict[str, Any]]:
        """The bodies sent to a path that ends so."""
        return [json.loads(asked.body) for asked in self.server.asked if asked.path.endswith(what)]

    @property
    def unready(self) -> float | None:
        return self.metrics.registry.get_sample_value("akv_secret_store_not_ready")


@pytest.fixture
async def scene(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Scene]:
    caplog.set_level(logging.INFO)
    async with connected() as (server, kube):
        metrics = Metrics()
        events = Events(kube, "pod-1")
        yield Scene(server, Reporter(kube, events, metrics), events, metrics)


# The status


async def test_the_status_names_every_field_so_that_none_stays_behind(scene: Scene) -> None:
    assert await scene.tells(EMPTY, status(AWAY))
    (body,) = scene.sent("/secretsyncs/shop/status")
    assert body["metadata"] == {"resourceVersion": "7"}
    assert set(body["status"]) == {
        "conditions",
        "lastSuccessfulSyncTime",
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
    assert await scene.tells(status(AWAY), status(AWAY, status(AWAY)))
    assert not scene.server.asked


@pytest.mark.parametrize("answer", [refusal(500), refusal(403, "no"), refusal(422, "invalid"), Answer(b"<html>")])
async def test_a_status_that_is_not_taken_is_no_news_and_asked_for_again(scene: Scene, answer: Answer) -> None:
    scene.server.will_answer(answer)
    assert not await scene.tells(EMPTY, status(AWAY))
    assert not scene.sent("/events")


async def test_an_object_that_changed_meanwhile_is_looked_at_again(scene: Scene) -> None:
    scene.server.will_answer(refusal(409))
    with pytest.raises(Again):
        await scene.tells(EMPTY, status(AWAY))
    assert not scene.sent("/events")


async def test_what_was_written_stands_before_a_watch_brings_it(scene: Scene) -> None:
    scene.syncs.put(sync())
    await scene.tells(EMPTY, status(WRITTEN))
    found = scene.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    assert found.status == status(WRITTEN)
    assert found.metadata.resource_version == "8"


@pytest.mark.parametrize(
    "newer",
    [
        pytest.param(sync(uid="another"), id="one made anew"),
        pytest.param(edited(sync(("other",), generation=2)), id="one edited since"),
        pytest.param(None, id="one that is gone"),
    ],
)
async def test_but_not_where_a_watch_was_faster(scene: Scene, newer: SecretSync | None) -> None:
    if newer:
        scene.syncs.put(newer)
    await scene.tells(EMPTY, status(WRITTEN))
    assert scene.syncs.get(SHOP) is newer


async def test_one_that_was_deleted_meanwhile_is_forgotten(scene: Scene) -> None:
    scene.server.will_answer(refusal(404))
    assert await scene.tells(EMPTY, status(AWAY))
    assert scene.unready == 0


async def test_a_crd_that_drops_our_fields_is_named(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.server.will_answer(kept({"conditions": []}))
    await scene.tells(EMPTY, status(WRITTEN))
    assert "drops status.objects: apply this chart's CRDs" in caplog.text


async def test_the_gauge_counts_who_is_not_ready(scene: Scene) -> None:
    other = sync(name="other")
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
        pytest.param(status(AWAY), msgspec.structs.replace(AWAY, retry_after=5.0), False, id="the same failure"),
    ],
)
async def test_only_news_is_an_event_and_a_line(
    scene: Scene, caplog: pytest.LogCaptureFixture, before: SecretSyncStatus, outcome: Outcome, news: bool
) -> None:
    await scene.tells(before, status(outcome, before))
    assert len(scene.sent("/events")) == len(caplog.records) == (1 if news else 0)


@pytest.mark.parametrize(("outcome", "kind", "level"), [(WRITTEN, "Normal", "INFO"), (AWAY, "Warning", "WARNING")])
async def test_event_and_line_say_the_same(
    scene: Scene, caplog: pytest.LogCaptureFixture, outcome: Outcome, kind: str, level: str
) -> None:
    await scene.tells(EMPTY, status(outcome))
    (event,) = scene.sent("/apis/events.k8s.io/v1/namespaces/team/events")
    assert (event["type"], event["reason"], event["note"]) == (kind, outcome.reason, outcome.message)
    assert event["regarding"]["uid"] == sync().metadata.uid
    assert event["reportingInstance"] == "pod-1"
    assert event["metadata"]["name"].startswith("shop.")
    (record,) = caplog.records
    assert record.levelname == level
    assert record.getMessage() == f"team/shop: {outcome.message}"
    assert vars(record)["fields"] == {"secretsync": "team/shop", "reason": outcome.reason}


async def test_an_event_that_is_refused_changes_nothing(scene: Scene) -> None:
    scene.server.will_answer(kept({"objects": []}), refusal(403))
    assert await scene.tells(EMPTY, status(AWAY))


async def test_of_a_namespace_that_is_gone_nothing_more_is_told(scene: Scene) -> None:
    scene.server.will_answer(refusal(404))
    for number in range(3):
        scene.events.say(sync().metadata, "Normal", "Synced", f"number {number}")
    await scene.events.work()
    assert len(scene.sent("/events")) == 1


async def test_an_endless_message_is_cut_in_event_and_line(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    await scene.tells(EMPTY, status(msgspec.structs.replace(AWAY, message="x" * 32_000)))
    (event,) = scene.sent("/events")
    assert len(event["note"]) == MOST_NOTE
    assert len(caplog.text) < 2000


async def test_a_thousand_failures_do_not_flood_the_log(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(300):
        one = sync(name=f"s{number}")
        failed = msgspec.structs.replace(AWAY, message=f"secret {number} is not in Key Vault shop")
        await scene.tells(EMPTY, status(failed, of=one), of=one)
    assert len(caplog.records) == LINES_A_MINUTE
    assert scene.unready == 300


# What was synced all the same


async def test_what_a_person_should_look_at_is_told_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    meta = sync().metadata
    for warnings in (["a expired", "b lacks"], ["a expired", "b lacks"], ["b lacks"], *[["b lacks", "c expired"]] * 2):
        scene.reporter.warn(meta, warnings)
    await scene.events.work()
    told = [(event["type"], event["reason"], event["note"]) for event in scene.sent("/events")]
    assert told == [("Warning", ATTENTION, "a expired; b lacks"), ("Warning", ATTENTION, "c expired")]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "team/shop: c expired" in caplog.text


async def test_what_was_mended_and_comes_back_is_told_again(scene: Scene) -> None:
    for warnings in (["a expired"], [], ["a expired"]):
        scene.reporter.warn(sync().metadata, warnings)
    scene.reporter.forget("team", "shop")
    scene.reporter.warn(sync().metadata, ["a expired"])
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
        events = Events(cast("Kube", kube), "pod-1")
        for number in range(2 * BURST):
            events.say(sync().metadata, "Normal", "Synced", f"number {number}")
        work = asyncio.create_task(events.work())
        await asyncio.sleep(1)
        assert len(kube.moments) == BURST + PER_SECOND
        events.close()
        await work
        return kube.moments

    moments = virtual.run(main)
    assert len(moments) == 2 * BURST
    assert moments[BURST - 1] == 0
    assert moments[-1] == pytest.approx(1)


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
        events = Events(cast("Kube", kube), "pod-1", clock)
        work = asyncio.create_task(events.work())
        neighbour = msgspec.structs.replace(sync().metadata, namespace="neighbour")
        for second in range(120):
            for number in range(100):
                events.say(sync().metadata, "Warning", "ProviderError", f"number {number}")
            if second == 60:
                events.say(neighbour, "Warning", "ProviderError", "the neighbour's")
            assert sum(map(len, events._waiting.values())) <= 2 * budgets.EVENTS.most
            await asyncio.sleep(1)
        events.close()
        await work
        return kube.sent

    sent = virtual.run(main)
    (at,) = [moment for namespace, moment in sent if namespace == "neighbour"]
    assert 59.9 <= at <= 61
    assert len(sent) - 1 <= 3 * budgets.EVENTS.most
