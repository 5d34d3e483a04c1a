"""Parse SecretProviderClasses: each edit once, and at most once a second for each class.

An editor can send thirty edits of 128 KiB a second. The first edit is parsed at once. Edits within the next second wait
for its end, and then only the last one is parsed. Many SecretSyncs can use a class. Those that read it while it is
parsed wait for that result.
"""

import time
from collections.abc import Callable

import msgspec

from controller.api.secretproviderclass import SecretProviderClass
from controller.domain.provider_class import ProviderConfig, read_class
from controller.errors import ClassError
from controller.runtime.coalesce import KeyedLocks
from controller.runtime.threads.parsing import ParsingPool
from controller.runtime.work_queue import Key

# Seconds between two parsings of a class.
EDIT_INTERVAL = 1.0
# Maximum characters that need no thread: parsing them takes less than five milliseconds in all cases.
SMALL = 4096


class _ParsedClass(msgspec.Struct):
    """The result of parsing one edit of a class, and the time of its start."""

    uid: str
    generation: int
    began: float
    result: ProviderConfig | ClassError


class ClassReader:
    """The results of parsing for existing classes. `without_identity` makes the identity optional."""

    def __init__(
        self, parser: ParsingPool, *, without_identity: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parser = parser
        self._without_identity = without_identity
        self._clock = clock
        self._parsed: dict[Key, _ParsedClass] = {}
        self._locks = KeyedLocks()

    def seconds_until_parse(self, source: SecretProviderClass) -> float:
        """Return the seconds until this edit may be parsed, or 0 if it may be parsed now or is parsed already."""
        known = self._parsed.get(_class_key(source))
        if known is None or _is_result_of(known, source):
            return 0.0
        return max(0.0, known.began + EDIT_INTERVAL - self._clock())

    async def read_config(self, source: SecretProviderClass) -> ProviderConfig:
        """Return the parsed class. Raise `ClassError`, or `ParsingDeferred`."""
        known = self._known_result(source) or await self._parse_once(source)
        if isinstance(known, ClassError):
            raise known.bare()
        return known

    def forget(self, key: Key) -> None:
        """Forget a deleted class."""
        self._parsed.pop(key, None)

    def _known_result(self, source: SecretProviderClass) -> ProviderConfig | ClassError | None:
        known = self._parsed.get(_class_key(source))
        return known.result if known and _is_result_of(known, source) else None

    async def _parse_once(self, source: SecretProviderClass) -> ProviderConfig | ClassError:
        """Parse this edit, unless another reader has parsed it while this one waited for the lock."""
        key = _class_key(source)
        async with self._locks.get_lock(key):
            if known := self._known_result(source):
                return known
            began = self._clock()
            result = await self._parse_class(source)
            self._parsed[key] = _ParsedClass(source.metadata.uid, source.metadata.generation, began, result)
            return result

    async def _parse_class(self, source: SecretProviderClass) -> ProviderConfig | ClassError:
        namespace = source.metadata.namespace

        def parse() -> ProviderConfig | ClassError:
            try:
                return read_class(source, without_identity=self._without_identity)
            except ClassError as error:
                return ClassError(f"SecretProviderClass {source.metadata.name}: {error.message}")

        if sum(map(len, source.spec.parameters.values())) <= SMALL:
            return self._parser.run_here(namespace, parse)
        return await self._parser.run(namespace, lambda _: parse())


def _class_key(source: SecretProviderClass) -> Key:
    return Key(source.metadata.namespace, source.metadata.name)


def _is_result_of(known: _ParsedClass, source: SecretProviderClass) -> bool:
    return (known.uid, known.generation) == (source.metadata.uid, source.metadata.generation)
