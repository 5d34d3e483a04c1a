"""Test random histories of two expanded objects that can have properties of the same names.

Each value names its object, so the data of the Secret shows which object each key comes from.
"""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.api.secretsync import SecretSyncStatus
from controller.config.settings import Settings
from controller.domain.provider_class import ObjectVersionRef
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.domain.status import Failed, Outcome, PartiallySynced, Requeue, next_status
from controller.domain.values import VaultValue
from controller.errors import ControllerError, ObjectError, ProviderError, Retry
from controller.secretsync.sync_resolver import ResolvedSync
from controller.secretsync.syncer import LastWrite
from controller.secretsync.tasks import Fetch, TargetKeys, join_dependents
from tests.support.builders import make_managed_fields, make_provider_class, make_secret_meta, make_sync, make_value
from tests.support.scripted_api_server import ReceivedRequest, ScriptedResponse
from tests.unit.secretsync.syncer.harness import ABSENT, SyncerHarness, make_class, make_harness, metadata_response

START = datetime(2030, 1, 1, tzinfo=UTC)
# Two expanded objects, and one with a key of its own that a property can also have.
KEYS = {"x": "one", "p": "single", "y": "two"}
# A key of its own takes precedence over a property, and a property of an item over that of a later one.
ORDER = ["single", "one", "two"]
SOURCE = make_class(
    objects="array: ['{objectName: one, objectExpand: true}', 'objectName: single',"
    " '{objectName: two, objectExpand: true}']"
)
UNUSABLE = "\ud800"
DISABLED, UNREACHABLE = "disabled", "unreachable"
NAMES = st.sampled_from("pqr")
DOCUMENTS = st.dictionaries(NAMES, st.sampled_from(["", "", "", UNUSABLE]), max_size=3) | st.sampled_from(
    [DISABLED, UNREACHABLE]
)
STEPS = st.fixed_dictionaries(
    {
        "changes": st.dictionaries(st.sampled_from(["one", "single", "two"]), DOCUMENTS, min_size=1, max_size=3),
        "how": st.sampled_from(["poll", "poll", "poll", "all", "restart"]),
    }
)
State = Mapping[str, str] | str
"""The properties of an object, with `UNUSABLE` for those that are not valid text, or why it cannot be read."""


class _Secret:
    """The Secret in the API server, and the responses about it."""

    def __init__(self) -> None:
        self.data: dict[str, str] | None = None
        self.writes = 0

    def respond(self, request: ReceivedRequest) -> ScriptedResponse:
        body = json.loads(request.body)
        if request.method == "POST":
            self.data = {}
        if self.data is None:
            return ABSENT
        if body:
            self.writes += 1
            for key, text in body["data"].items():
                if text is None:
                    self.data.pop(key, None)
                else:
                    self.data[key] = base64.b64decode(text).decode()
        time = f"2030-01-01T00:00:{self.writes:02}Z"
        meta = make_secret_meta(managed_fields=[make_managed_fields(self.data, time=time)])
        return metadata_response(meta, str(self.writes))


class _History:
    """The vault, the status and the tasks of one SecretSync."""

    def __init__(self, harness: SyncerHarness) -> None:
        self.harness = harness
        self.secret = _Secret()
        harness.server.default_response = self.secret.respond
        self.states: dict[str, State] = {}
        self.versions: dict[str, int] = {}
        self.status = SecretSyncStatus()
        self.left: TargetKeys = frozenset()
        self.now = START

    def change(self, changes: Mapping[str, State]) -> None:
        for name, state in changes.items():
            self.states[name] = state
            if state != UNREACHABLE:
                self.versions[name] = self.versions.get(name, 0) + 1
            self.harness.vault.values[name] = self._value(name, state)

    def _value(self, name: str, state: State) -> VaultValue | ControllerError:
        if isinstance(state, str):
            return ObjectError(f"secret {name} is disabled") if state == DISABLED else ProviderError("unreachable")
        number = self.versions[name]
        document = {key: text or self.text(name) for key, text in state.items()}
        text = self.text(name) if name == "single" else json.dumps(document)
        updated = START + timedelta(days=number)
        return msgspec.structs.replace(make_value(text, f"v{number}"), updated=updated)

    def text(self, name: str) -> str:
        return f"{name} {self.versions[name]}"

    def poll(self, wanted: Mapping[str, ObjectVersionRef]) -> frozenset[str]:
        listed = {
            name: ListedObject(START + timedelta(days=self.versions.get(name, 0)), enabled=state != DISABLED)
            for name, state in self.states.items()
        }
        snapshot = VaultSnapshot(listed={"secret": listed})
        return snapshot.stale_keys(wanted, self.status.objects, self.harness.written.unusable)

    async def sync(self, how: str) -> None:
        """Make one attempt as `AttemptRunner` does, and write its outcome into the status."""
        if how == "restart":
            self.harness.written = LastWrite()
        wanted = make_sync(KEYS, status=self.status)
        resolved = await self.harness.resolver.resolve_sync(wanted, SOURCE)
        assert isinstance(resolved, ResolvedSync)
        stale = self.poll(resolved.wanted)
        keys = None if how == "all" or self.left is None else stale | self.left
        task = Fetch(0.0, join_dependents(keys, self.harness.written.unusable))
        try:
            outcome: Outcome = await self.harness.syncer.sync(wanted, resolved, self.harness.written, task)
        except ControllerError as error:
            outcome = Failed(error)
        assert not isinstance(outcome, Requeue)
        self.left = frozenset()
        if isinstance(outcome, PartiallySynced):
            self.left = frozenset(key for key, error in outcome.failed.items() if error.retry is not Retry.ON_NEW_VALUE)
        elif isinstance(outcome, Failed) and outcome.retry is not Retry.ON_NEW_VALUE:
            self.left = task.keys
        self.now += timedelta(hours=1)
        self.status = next_status(wanted.metadata, self.status, make_provider_class(), outcome, self.now)

    def is_readable(self, name: str, key: str) -> bool:
        """Return whether the object can be read, and has a usable value of this key or does not have the key."""
        state = self.states[name]
        if isinstance(state, str) or name == "single":
            return not isinstance(state, str)
        return any(text != UNUSABLE for text in state.values()) and state.get(key) != UNUSABLE

    def has_key(self, name: str, key: str) -> bool:
        return self.is_readable(name, key) and (name == "single" or key in self.states[name])

    def is_good(self, name: str) -> bool:
        """Return whether the value of the object, and each of its properties, is usable."""
        state = self.states[name]
        return not isinstance(state, str) and (name == "single" or (bool(state) and UNUSABLE not in state.values()))

    def ideal(self) -> dict[str, str]:
        """Return the data if all objects are good: a key of its own first, then the first object with the property."""
        found = {"p": self.text("single")}
        for name in ("one", "two"):
            for key in self.states[name]:
                found.setdefault(key, self.text(name))
        return found


def check_step(history: _History, before: Mapping[str, str]) -> dict[str, str]:
    """Check the Secret against its data before the sync. Return the data that no object of the vault has lost."""
    after = history.secret.data or {}
    for key, text in before.items():
        name = text.split()[0]
        if not history.is_readable(name, key):
            source = after[key].split()[0]
            has_precedence = ORDER.index(source) < ORDER.index(name) and history.is_readable(source, key)
            assert after[key] == text or has_precedence
    return {
        key: text
        for key, text in after.items()
        if history.has_key(name := text.split()[0], key)
        or (before.get(key) == text and not history.is_readable(name, key))
    }


async def run_history(steps: Sequence[Mapping[str, Any]]) -> None:
    async with make_harness(Settings()) as harness:
        history = _History(harness)
        first = {"one": {"q": ""}, "single": {}, "two": {"q": "", "r": ""}}
        data: dict[str, str] = {}
        for step in ({"changes": first, "how": "all"}, *steps):
            history.change(step["changes"])
            await history.sync(step["how"])
            data = check_step(history, data)
            if all(map(history.is_good, history.states)):
                # A property that moved between the objects can need a second poll.
                await history.sync("poll")
                data = history.secret.data or {}
                assert data == history.ideal()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=6))
def test_no_value_is_lost_or_replaced_because_of_a_failure(steps: list[dict[str, Any]]) -> None:
    asyncio.run(run_history(steps))
