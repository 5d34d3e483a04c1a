"""Test the isolation of namespaces: no vault value reaches another namespace, and no namespace delays another."""

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.decode_values import PFX
from controller.domain.status import sync_hash
from controller.keyvault.client import AT_ONCE
from tests.support.certificates import make_slow_pfx
from tests.support.cluster.harness import (
    TENANT,
    InstalledRelease,
    canary_value,
    eventually,
    read_metrics,
    wait_for_deleted_namespaces,
)
from tests.support.cluster.namespace import Namespace, past_time
from tools.pods.pod_process import PodProcess

POLL = 2
# A new value of a namespace is synced within interval + jitter + this time, regardless of other namespaces.
MAX_DELAY = 10.0
# The number of hanging vaults. It exceeds the number of requests that one namespace can have in progress.
HANGING_VAULTS = 40


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(POLL), "LEASE_NAME": ""}


@pytest.fixture
def neighbour(installed: InstalledRelease, controller: PodProcess) -> Iterator[Namespace]:
    """Provide another namespace with another identity."""
    namespace = Namespace(installed)
    yield namespace
    namespace.remove()


# Values


def test_two_identities_of_one_vault_share_no_answer(space: Namespace, neighbour: Namespace) -> None:
    """Both identities read the same object at the same time, and each gets its own answer from the vault."""
    emulator = space.installed.emulator
    space.set_secret("a", "1")
    for place in (space, neighbour):
        manifests = (place.sync(f"s{number}", {"k": "a"}) for number in range(10))
        place.apply(place.provider_class("a", keyvaultName=space.vault), *manifests)
    for number in range(10):
        space.wait_secret(f"s{number}", {"k": "1"})
        assert "may not read secret a" in neighbour.wait_reason(f"s{number}", Reason.PROVIDER_ERROR)
    assert set(neighbour.list_names("secret")) & {f"s{number}" for number in range(10)} == set()

    emulator.assign_role(neighbour.client, space.vault)
    for number in range(10):
        neighbour.force_sync(f"s{number}")
    for number in range(10):
        neighbour.wait_secret(f"s{number}", {"k": "1"}, patience=40)

    emulator.revoke_role(neighbour.client, space.vault)
    space.set_secret("a", "2")
    for number in range(10):
        space.wait_secret(f"s{number}", {"k": "2"})
    neighbour.wait_reason("s0", Reason.PROVIDER_ERROR, patience=30)
    assert neighbour.secret_values("s0") == {"k": canary_value("1")}
    version = neighbour.get("secretsync", "s0")["status"]["objects"][0]["version"]
    assert version != space.get("secretsync", "s0")["status"]["objects"][0]["version"]


def test_identity_of_another_namespace_cannot_be_used(space: Namespace, neighbour: Namespace) -> None:
    """The client ID is public. Entra requires a token of the neighbour's ServiceAccount."""
    neighbour.set_secret("a", "1")
    stolen = space.provider_class("a", keyvaultName=neighbour.vault, clientID=neighbour.client)
    space.apply(stolen, space.sync("s", {"k": "a"}))
    message = space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert f"subject system:serviceaccount:{space.name}:{space.account}" in message
    assert space.secret_values("s") == {}
    assert not neighbour.count_calls("secrets.get")


# The contents of a status

# Differences between two objects that do not depend on a value: IDs of the API server and the vault, and times.
UNRELATED_TEXTS = [
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r'"resourceVersion": "\d+"'), '"resourceVersion": "VERSION"'),
]


def read_as_viewer(space: Namespace, name: str, version: str) -> Any:
    """Return all that a viewer without access to Secrets can read about a SecretSync, its class and their events."""
    objects = [space.get(kind, name) for kind in ("secretsync", "secretproviderclass")]
    events = json.loads(space.kubectl("get", "events", "-o", "json", "--show-managed-fields"))["items"]
    theirs = [item for item in events if item["involvedObject"]["name"] == name]
    for event in theirs:  # the name ends in a time or a random suffix
        assert event["metadata"].pop("name").startswith(f"{name}.")
    for each in [*objects, *theirs]:  # the API server sorts by time, and by name within a second
        each["metadata"]["managedFields"].sort(key=lambda fields: fields["manager"])
    status = objects[0]["status"]
    (listed,) = status["objects"]
    # The vault sets the version. The hash is computed only from the other fields of the status.
    sync, source = msgspec.convert(objects[0], SecretSync), msgspec.convert(objects[1], SecretProviderClass)
    assert status.pop("syncHash") == sync_hash(sync.metadata, source, sync.status.objects)
    assert listed.pop("version") == version
    text = json.dumps([*objects, *theirs], sort_keys=True).replace(name, "NAME")
    for pattern, instead in UNRELATED_TEXTS:
        text = pattern.sub(instead, text)
    return json.loads(text)


def is_reported(space: Namespace, name: str) -> bool:
    """Return whether the SecretSync has a status and an event."""
    return space.ready_condition(name)[0] != "" and bool(space.list_events(name))


def list_series(space: Namespace, controller: PodProcess) -> set[str]:
    """Return the series of this namespace and those without a namespace. Replace the SecretSync's name."""
    lines = (line for line in read_metrics(controller).splitlines() if not line.startswith("#"))
    found = {re.sub(r'\bname="[^"]*"', 'name="NAME"', line.rpartition(" ")[0]) for line in lines}
    whose = [(each, re.search(r'\b(?:namespace|vault)="([^"]*)"', each)) for each in found]
    return {each for each, match in whose if match is None or match[1] in (space.name, space.vault)}


def list_series_twice(space: Namespace, controller: PodProcess) -> tuple[set[str], set[str]]:
    """Return the series now and after a poll, when all running work has been counted."""
    before = list_series(space, controller)
    time.sleep(POLL + 1)
    return before, list_series(space, controller)


def wait_next_poll(space: Namespace) -> None:
    """Wait for the next list of the vault's secrets."""
    lists = space.count_calls("secrets.list")
    eventually(lambda: space.count_calls("secrets.list"), lambda found: found > lists, every=0.02)


def test_status_events_and_metrics_do_not_depend_on_the_value(space: Namespace, controller: PodProcess) -> None:
    """Status, events and metrics are the same for each value, except for texts that do not depend on it."""
    wait_for_deleted_namespaces(space.installed.plane)  # failures of these namespaces would be counted here
    eventually(partial(list_series_twice, space, controller), lambda found: found[0] == found[1], patience=60)
    pins = {"pin-a1": "4711", "pin-b2": "4711", "pin-c3": "0042", "pin-d4": "x" * 999}
    emulator = space.installed.emulator
    with past_time(emulator):
        ids = {name: emulator.set_secret(space.vault, name, pin).rpartition("/")[2] for name, pin in pins.items()}
    seen: list[Any] = []
    labels: list[set[str]] = []
    for name, version in ids.items():
        if seen:
            # The controller records a poll in the status of one SecretSync. Read this status before the next poll.
            wait_next_poll(space)
        space.apply(space.provider_class(name, name=name), space.sync(name, {"k": name}, secretProviderClassName=name))
        eventually(partial(is_reported, space, name), bool)
        seen.append(read_as_viewer(space, name, version))
        # The first poll adds the series of its list call.
        labels.append(eventually(partial(list_series, space, controller), lambda found: "secrets.list" in str(found)))
    assert seen[1:] == seen[:-1]
    assert labels[1:] == labels[:-1]


# Delays between namespaces


def make_broken_syncs(space: Namespace) -> list[dict[str, object]]:
    """Return 108 SecretSyncs with twelve different mistakes."""
    ways: list[tuple[dict[str, str], dict[str, object]]] = [
        ({"k": "missing"}, {}),
        ({"k": "unlisted"}, {}),
        ({"k/0": "a"}, {}),
        ({"k": "a"}, {"secretProviderClassName": "absent"}),
        ({"k": "a"}, {"serviceAccountName": "absent"}),
        ({"k": "a"}, {"secretObject": {"type": "kubernetes.io/tls"}}),
        ({"k": "a"}, {"secretObject": {"type": "example.com/forbidden"}}),
        ({"k": "a/7"}, {}),
        ({"k": "a"}, {"secretProviderClassName": "huge"}),
        ({"k": "a"}, {"secretProviderClassName": "deep"}),
        ({"k": "a"}, {"secretProviderClassName": "dense"}),
        ({"tls.crt": "slow/tls.crt", "tls.key": "slow/tls.key"}, {"secretObject": {"type": "kubernetes.io/tls"}}),
    ]
    return [
        space.sync(f"broken-{number}", data, **json.loads(json.dumps(changes)))
        for number, (data, changes) in enumerate(ways * 9)
    ]


def measure_delay(space: Namespace, text: str) -> float:
    """Set a new value in the vault, and return the seconds until it is in the Secret."""
    space.set_secret("a", text)
    began = time.monotonic()
    space.wait_secret("s", {"k": text}, patience=120)
    return time.monotonic() - began


def test_hundred_broken_secretsyncs_delay_no_other_namespace(space: Namespace, neighbour: Namespace) -> None:
    neighbour.set_secret("a", "0")
    neighbour.apply(neighbour.provider_class("a"), neighbour.sync("s", {"k": "a"}))
    neighbour.wait_secret("s", {"k": "0"})
    space.set_secret("a", "1")
    many = "array:\n" + "".join(f"- 'objectName: a{number}'\n" for number in range(44_000))
    assert len(many) > 1_000_000
    texts = {"huge": many, "deep": "[" * 100_000, "dense": "array: [" + "a," * 65_000 + "a]"}
    for name, text in texts.items():  # `apply` would copy the text into an annotation, whose size is limited
        manifest = space.provider_class(name=name, objects=text)
        space.kubectl("create", "--filename", "-", stdin=json.dumps(manifest))
    space.installed.emulator.set_secret(space.vault, "slow", make_slow_pfx(), content_type=PFX)
    space.apply(space.provider_class("a", "missing", "slow"), *make_broken_syncs(space))
    waits = []
    for number in range(5):
        # The controller parses the text again at each edit.
        edit = json.dumps({"spec": {"parameters": {"tenantID": f"tenant-{number}"}}})
        for name in texts:
            space.kubectl("patch", "secretproviderclass", name, "--type=merge", "--patch", edit)
        waits.append(measure_delay(neighbour, f"{number}"))
    assert max(waits) < POLL + MAX_DELAY, waits
    # A new SecretSync is synced in the same time.
    began = time.monotonic()
    neighbour.apply(neighbour.sync("new", {"k": "a"}))
    neighbour.wait_secret("new", {"k": "4"})
    assert time.monotonic() - began < MAX_DELAY
    # Each hostile SecretSync has a status with a reason.
    for number in range(12):
        condition = eventually(
            partial(space.ready_condition, f"broken-{number}"), lambda found: found[0] != "", patience=90
        )
        assert condition[0] != Reason.INTERNAL_ERROR
    assert re.search(r"at most \d+ are read", space.ready_condition("broken-8")[1])
    assert "takes too long to open" in space.ready_condition("broken-11")[1]


def count_hanging_requests(space: Namespace) -> int:
    """Return the number of requests that the hanging vaults have received."""
    counters = space.installed.emulator.counters()
    return sum(count for what, count in counters.items() if what.startswith(f"{space.vault}-"))


def test_hanging_vaults_delay_no_other_namespace(space: Namespace, neighbour: Namespace) -> None:
    """A namespace whose requests to many vaults hang can use at most half of all requests in progress."""
    neighbour.set_secret("a", "0")
    neighbour.apply(neighbour.provider_class("a"), neighbour.sync("s", {"k": "a"}))
    neighbour.wait_secret("s", {"k": "0"})
    emulator = space.installed.emulator
    manifests = []
    for number in range(HANGING_VAULTS):
        vault = f"{space.vault}-{number}"
        emulator.add_vault(vault, TENANT)
        emulator.fail(kind="hang", where=vault, seconds=60)
        manifests.append(space.provider_class("a", "b", name=f"class-{number}", keyvaultName=vault))
        each = {"secretProviderClassName": f"class-{number}"}
        manifests += [space.sync(f"{name}-{number}", {"k": name}, **each) for name in ("a", "b")]
    space.apply(*manifests)
    eventually(lambda: count_hanging_requests(space), lambda count: count >= AT_ONCE / 2)
    for number in range(1, 5):
        assert measure_delay(neighbour, f"{number}") < POLL + MAX_DELAY
    began = time.monotonic()
    neighbour.apply(neighbour.sync("new", {"k": "a"}))
    neighbour.wait_secret("new", {"k": "4"})
    assert time.monotonic() - began < MAX_DELAY
    space.wait_reason("a-0", Reason.PROVIDER_ERROR, patience=90)
