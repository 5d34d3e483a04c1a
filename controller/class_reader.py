"""SecretProviderClasses, parsed: each edit once, and at most once a second for each class.

An editor can send thirty edits of 128 KiB a second. The first edit is parsed at once. Those that follow within a second
wait for its end, and then only the last one is parsed.
"""

import time
from collections.abc import Callable

import msgspec

from controller.api.secretproviderclass import SecretProviderClass
from controller.errors import ClassError
from controller.objects import VaultClass, read_class
from controller.parsing import Parser
from controller.queue import Key

# Seconds from one parsing of a class to the next.
EDIT_INTERVAL = 1.0
# Characters that are parsed within five milliseconds, however dense they are: they need no thread.
SMALL = 4096


class _Parsed(msgspec.Struct):
    """What was read of a class, as of one edit of it, and when its parsing began."""

    uid: str
    generation: int
    began: float
    result: VaultClass | ClassError


class ClassReader:
    """The results of parsing, of classes that exist. `without_identity`: a class may leave out who reads."""

    def __init__(self, parser: Parser, *, without_identity: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._parser = parser
        self._without_identity = without_identity
        self._clock = clock
        self._parsed: dict[Key, _Parsed] = {}

    def wait(self, source: SecretProviderClass) -> float:
        """Return the seconds until this edit may be parsed; 0 where it may be now, or was already."""
        known = self._parsed.get(_key(source))
        if known is None or _is_of(known, source):
            return 0.0
        return max(0.0, known.began + EDIT_INTERVAL - self._clock())

    async def read(self, source: SecretProviderClass) -> VaultClass:
        """Return what the class asks for. Raise `ClassError`, or `ParsingDeferred`."""
        key = _key(source)
        known = self._parsed.get(key)
        if known is None or not _is_of(known, source):
            began = self._clock()
            known = _Parsed(source.metadata.uid, source.metadata.generation, began, await self._parse(source))
            self._parsed[key] = known
        if isinstance(known.result, ClassError):
            raise known.result.bare()
        return known.result

    def forget(self, key: Key) -> None:
        """Forget a class that is gone."""
        self._parsed.pop(key, None)

    async def _parse(self, source: SecretProviderClass) -> VaultClass | ClassError:
        namespace = source.metadata.namespace

        def parse() -> VaultClass | ClassError:
            try:
                return read_class(source, without_identity=self._without_identity)
            except ClassError as error:
                return ClassError(f"SecretProviderClass {source.metadata.name}: {error.message}")

        if sum(map(len, source.spec.parameters.values())) <= SMALL:
            return self._parser.run_here(namespace, parse)
        return await self._parser.run(namespace, lambda _: parse())


def _key(source: SecretProviderClass) -> Key:
    return Key(source.metadata.namespace, source.metadata.name)


def _is_of(known: _Parsed, source: SecretProviderClass) -> bool:
    return (known.uid, known.generation) == (source.metadata.uid, source.metadata.generation)
