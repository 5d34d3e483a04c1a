"""Check what the controller did over the whole suite: it used exactly its rights and exposed no value.

When a test module ends, it adds one `ModuleRecord` of what its controllers did. At the end of the pytest session the
records of all workers are merged, and each check is reported like a test. The pytest hooks are in conftest.py, and this
module has the checks.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from tests.support.cluster.permissions import Permission


class ModuleRecord(msgspec.Struct, frozen=True):
    """The rights of one test module's release, those that its controller used, and the places with a value."""

    module: str
    granted: frozenset[Permission] = frozenset()
    used: frozenset[Permission] = frozenset()
    leaks: tuple[str, ...] = ()


class CheckResult(NamedTuple):
    """The result of one check. `problem` is empty if it passed."""

    name: str
    problem: str


def encode(records: Iterable[ModuleRecord]) -> str:
    """Return the records as JSON, to be sent from a worker to the session."""
    return msgspec.json.encode(list(records)).decode()


def decode(text: str) -> list[ModuleRecord]:
    """Return the records that `encode` wrote."""
    return msgspec.json.decode(text, type=list[ModuleRecord])


def check(records: Iterable[ModuleRecord], *, is_complete: bool) -> list[CheckResult]:
    """Run the checks. `is_complete` means that every module has run, so that each granted right must have been used."""
    found = sorted(records, key=lambda record: record.module)
    rights = "granted_equals_used" if is_complete else "used_rights_are_granted"
    return [
        CheckResult("no_value_is_exposed", _exposed(found)),
        CheckResult(rights, _rights(found, is_complete=is_complete)),
    ]


def _exposed(records: list[ModuleRecord]) -> str:
    return "\n".join(f"{record.module}: {leak}" for record in records for leak in record.leaks)


def _rights(records: list[ModuleRecord], *, is_complete: bool) -> str:
    granted = frozenset[Permission]().union(*(record.granted for record in records))
    used = frozenset[Permission]().union(*(record.used for record in records))
    problems = [
        f"{record.module}: used without being granted: {right}"
        for record in records
        for right in sorted(record.used - record.granted)
    ]
    if is_complete:
        problems += [f"granted and not used by any test: {right}" for right in sorted(granted - used)]
    return "\n".join(problems)
