"""Test that each edit of a class is parsed once, at most one a second, and a large class in a thread."""

import asyncio
import contextlib
import time
from typing import Any

import msgspec
import pytest

from controller.api.secretproviderclass import SecretProviderClass
from controller.domain import provider_class
from controller.domain.provider_class import ProviderConfig
from controller.errors import ClassError, ParsingDeferred
from controller.runtime.threads.parsing import ParsingPool
from controller.runtime.work_queue import Key
from controller.secretsync import class_reader
from controller.secretsync.class_reader import EDIT_INTERVAL, SMALL, ClassReader
from tests.support.builders import make_provider_class

USER, INVALID = "array: ['objectName: user']", "array: {"


def make_class(generation: int, objects: str = USER, name: str = "class") -> SecretProviderClass:
    base = make_provider_class(name=name)
    parameters = {"keyvaultName": "shop", "clientID": "c", "tenantID": "t", "objects": objects}
    return msgspec.structs.replace(
        base,
        spec=msgspec.structs.replace(base.spec, provider="azure", parameters=parameters),
        metadata=msgspec.structs.replace(base.metadata, generation=generation),
    )


async def test_edits_of_a_class_are_parsed_once_a_second_and_the_last_wins() -> None:
    now = [100.0]
    reader = ClassReader(ParsingPool(), without_identity=False, clock=lambda: now[0])
    parsed = 0
    for generation in range(1, 31):  # thirty edits within a second
        if not reader.seconds_until_parse(make_class(generation)):
            await reader.read_config(make_class(generation))
            parsed += 1
        now[0] += EDIT_INTERVAL / 31
    assert parsed == 1
    last = make_class(30, "array: ['objectName: last']")
    now[0] += reader.seconds_until_parse(last)
    assert reader.seconds_until_parse(last) == 0
    assert list((await reader.read_config(last)).objects) == ["last"]


@pytest.mark.parametrize(
    ("item", "later", "seconds"),
    [
        pytest.param(make_class(1), 0.25, 0.0, id="the edit is parsed already"),
        pytest.param(make_class(2), 0.25, 0.75, id="another edit within the second"),
        pytest.param(make_class(2), 1.0, 0.0, id="another edit after a second"),
        pytest.param(make_class(2), 9.0, 0.0, id="another edit later"),
        pytest.param(make_class(2, name="other"), 0.25, 0.0, id="another class"),
    ],
)
async def test_next_edit_may_be_parsed_a_second_after_the_start_of_the_last_parsing(
    item: SecretProviderClass, later: float, seconds: float
) -> None:
    now = [100.0]
    reader = ClassReader(ParsingPool(), without_identity=False, clock=lambda: now[0])
    assert reader.seconds_until_parse(item) == 0.0
    await reader.read_config(make_class(1))
    now[0] += later
    assert reader.seconds_until_parse(item) == seconds


async def test_large_class_is_parsed_off_the_event_loop() -> None:
    reader = ClassReader(ParsingPool(), without_identity=False)
    objects = "array:\n" + "".join(f"- 'objectName: a{number}'\n" for number in range(4_000))
    assert len(objects) > SMALL
    gaps: list[float] = []  # in CPU seconds of the event loop's thread: load and the parser do not count

    async def watch() -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            gaps.append(-(last - (last := time.thread_time())))

    watcher = asyncio.create_task(watch())
    start = time.process_time()
    with contextlib.suppress(ClassError):
        await reader.read_config(make_class(1, objects))
    duration = time.process_time() - start
    watcher.cancel()
    assert max(gaps) < max(0.05, duration / 2)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the generation of each class that is parsed."""
    found: list[int] = []
    real = provider_class.read_class

    def read_class(source: SecretProviderClass, *, without_identity: bool) -> ProviderConfig:
        found.append(source.metadata.generation)
        return real(source, without_identity=without_identity)

    monkeypatch.setattr(class_reader, "read_class", read_class)
    return found


LARGE = "array:\n" + "".join(f"- 'objectName: a{number}'\n" for number in range(SMALL // 20))


@pytest.mark.parametrize("objects", [LARGE, LARGE + "}"], ids=["valid", "refused"])
async def test_class_that_many_secretsyncs_read_at_once_is_parsed_once(objects: str, parsed: list[int]) -> None:
    reader = ClassReader(ParsingPool(), without_identity=False)
    source = make_class(1, objects)
    results = await asyncio.gather(*(reader.read_config(source) for _ in range(32)), return_exceptions=True)
    assert parsed == [1]
    assert len({str(result) for result in results}) == 1
    assert isinstance(results[0], ClassError) == (objects != LARGE)


async def test_reader_with_a_newer_edit_does_not_get_the_result_of_the_older_one(parsed: list[int]) -> None:
    reader = ClassReader(ParsingPool(), without_identity=False)
    older, newer = make_class(1, LARGE), make_class(2, LARGE + "- 'objectName: b'")
    configs = await asyncio.gather(reader.read_config(older), reader.read_config(newer))
    assert parsed == [1, 2]
    assert ["b" in config.objects for config in configs] == [False, True]


async def test_known_result_is_returned_while_a_newer_edit_is_parsed(parsed: list[int]) -> None:
    reader = ClassReader(ParsingPool(), without_identity=False)
    await reader.read_config(make_class(1))
    newer, older = await asyncio.gather(reader.read_config(make_class(2, LARGE)), reader.read_config(make_class(1)))
    assert (list(older.objects), len(newer.objects)) == (["user"], SMALL // 20)
    assert parsed == [1, 2]


async def test_invalid_class_is_parsed_once_and_each_reader_gets_the_error(parsed: list[int]) -> None:
    reader = ClassReader(ParsingPool(), without_identity=False)
    for _ in range(2):
        with pytest.raises(ClassError, match=r"^SecretProviderClass class: .*objects") as caught:
            await reader.read_config(make_class(1, INVALID))
        assert caught.value.__context__ is None
    assert parsed == [1]


async def test_classes_of_the_same_generation_have_their_own_results() -> None:
    reader = ClassReader(ParsingPool(), without_identity=False)
    first = await reader.read_config(make_class(1))
    second = await reader.read_config(make_class(1, "array: ['objectName: pass']", "other"))
    assert [list(config.objects) for config in (first, second)] == [["user"], ["pass"]]


async def test_forgotten_class_is_parsed_again(parsed: list[int]) -> None:
    reader = ClassReader(ParsingPool(), without_identity=False)
    for _ in range(2):
        reader.forget(Key("team", "class"))
        await reader.read_config(make_class(1))
    assert parsed == [1, 1]


class RecordingPool(ParsingPool):
    """A pool that records the namespace of each work that gets a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []

    async def run(self, namespace: str, *work: Any, **options: Any) -> Any:
        self.threads.append(namespace)
        return await super().run(namespace, *work, **options)


@pytest.mark.parametrize(("length", "threads"), [(4096, []), (4097, ["team"])])
async def test_class_of_more_than_4096_characters_gets_a_thread(length: int, threads: list[str]) -> None:
    pool = RecordingPool()
    rest = sum(map(len, make_class(1).spec.parameters.values()))
    config = await ClassReader(pool, without_identity=False).read_config(make_class(1, USER + " " * (length - rest)))
    assert (list(config.objects), pool.threads) == (["user"], threads)


class SpentOnce(ParsingPool):
    """A pool that defers the first work."""

    deferred = False

    async def run(self, *work: Any, **options: Any) -> Any:
        if not self.deferred:
            self.deferred = True
            raise ParsingDeferred("the budget is spent", retry_after=30.0)
        return await super().run(*work, **options)


async def test_deferred_work_is_done_by_the_next_reader(parsed: list[int]) -> None:
    reader = ClassReader(SpentOnce(), without_identity=False)
    source = make_class(1, LARGE)
    results = await asyncio.gather(*(reader.read_config(source) for _ in range(2)), return_exceptions=True)
    assert [isinstance(result, ParsingDeferred) for result in results] == [True, False]
    assert parsed == [1]
