"""Namespaces against each other: nothing of one's vault reaches another, and none can hold up the rest."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.calls import AT_ONCE
from controller.status import sync_hash
from tests.cluster.world import TENANT, Installed, Namespace, eventually, value
from tools.workload import Workload

POLL = 2
# Whatever a namespace does, another one's new value arrives after interval + jitter + this.
HELD_UP = 10.0
# Vaults that let every request hang: more than one namespace gets requests under way.
HANGING = 40


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(POLL), "LEASE_NAME": ""}


@pytest.fixture
def neighbour(installed: Installed, controller: Workload) -> Iterator[Namespace]:
    """Another namespace with another identity."""
    namespace = Namespace(installed)
    yield namespace
    namespace.remove()


# Values


def test_two_identities_on_one_vault_share_no_answer(space: Namespace, neighbour: Namespace) -> None:
    """Both ask for the same object at the same time, and the vault answers each for itself."""
    emulator = space.installed.emulator
    space.put("a", "1")
    for place in (space, neighbour):
        manifests = (place.sync(f"s{number}", {"k": "a"}) for number in range(10))
        place.apply(place.provider_class("a", keyvaultName=space.vault), *manifests)
    for number in range(10):
        space.wait_secret(f"s{number}", {"k": "1"})
        assert "may not read secret a" in neighbour.wait_reason(f"s{number}", Reason.PROVIDER_ERROR)
    assert set(neighbour.names("secret")) & {f"s{number}" for number in range(10)} == set()

    emulator.assign_role(neighbour.client, space.vault)
    for number in range(10):
        neighbour.force(f"s{number}")
    for number in range(10):
        neighbour.wait_secret(f"s{number}", {"k": "1"}, patience=40)

    emulator.revoke_role(neighbour.client, space.vault)
    space.put("a", "2")
    for number in range(10):
        space.wait_secret(f"s{number}", {"k": "2"})
    neighbour.wait_reason("s0", Reason.PROVIDER_ERROR, patience=30)
    assert neighbour.secret("s0") == {"k": value("1")}
    told = neighbour.get("secretsync", "s0")["status"]["objects"][0]["version"]
    assert told != space.get("secretsync", "s0")["status"]["objects"][0]["version"]


def test_a_neighbours_class_and_serviceaccount_are_out_of_reach(space: Namespace, neighbour: Namespace) -> None:
    """Its client id is no secret; the token that Entra asks for is the neighbour's own ServiceAccount's alone."""
    neighbour.put("a", "1")
    stolen = space.provider_class("a", keyvaultName=neighbour.vault, clientID=neighbour.client)
    space.apply(stolen, space.sync("s", {"k": "a"}))
    message = space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert f"subject system:serviceaccount:{space.name}:{space.account}" in message
    assert space.secret("s") == {}
    assert not neighbour.calls("secrets.get")


# What a status tells


def test_a_status_tells_nothing_of_a_value_not_even_of_a_pin(space: Namespace) -> None:
    """Every field of it comes from ids, times and edits; so no guess of a value can be tried against it."""
    pin = "4711"
    version = space.installed.emulator.set_secret(space.vault, "pin", pin).rpartition("/")[2]
    space.apply(space.provider_class("pin"), space.sync("s", {"k": "pin"}))
    space.wait_reason("s", Reason.WRITTEN, Reason.UP_TO_DATE)
    # Once the second of the change is over, its time is told, too.
    eventually(lambda: space.get("secretsync", "s")["status"]["objects"][0].get("updated"), bool)
    found = space.get("secretsync", "s")
    status = found["status"]
    assert status.keys() == {"conditions", "lastSuccessfulSyncTime", "syncHash", "observedGeneration", "objects"}
    (told,) = status["objects"]
    assert (told["targetKey"], told["object"], told["version"]) == ("k", "secret/pin", version)
    assert told.keys() <= {"targetKey", "object", "version", "updated", "expires"}
    # Anybody can compute the hash from what stands beside it: nothing else is in it.
    sync = msgspec.convert(found, SecretSync)
    source = msgspec.convert(space.get("secretproviderclass", "shop"), SecretProviderClass)
    assert status["syncHash"] == sync_hash(sync.metadata, source, sync.status.objects)
    # … and no usual digest of the PIN is anywhere.
    events = space.kubectl("get", "events", "-o", "json")
    text = json.dumps(found) + events
    keys = [found["metadata"]["uid"], source.metadata.uid, version, told["updated"]]
    for guess in (pin, base64.b64encode(pin.encode()).decode()):
        for algorithm in ("md5", "sha1", "sha256", "sha512"):
            digests = [hashlib.new(algorithm, guess.encode()).digest()]
            digests += [hmac.digest(key.encode(), guess.encode(), algorithm) for key in keys]
            for digest in digests:
                assert digest.hex()[:16] not in text
                assert base64.b64encode(digest).decode()[:16] not in text


# Who holds up whom


def broken(space: Namespace) -> list[dict[str, object]]:
    """A hundred SecretSyncs, each wrong in one of many ways."""
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
    ]
    return [
        space.sync(f"broken-{number}", data, **json.loads(json.dumps(changes)))
        for number, (data, changes) in enumerate(ways * 10)
    ]


def arrival(space: Namespace, text: str) -> float:
    """Seconds from a new value in the vault to the Secret."""
    space.put("a", text)
    began = time.monotonic()
    space.wait_secret("s", {"k": text}, patience=120)
    return time.monotonic() - began


def test_a_hundred_broken_secretsyncs_hold_nobody_up(space: Namespace, neighbour: Namespace) -> None:
    neighbour.put("a", "0")
    neighbour.apply(neighbour.provider_class("a"), neighbour.sync("s", {"k": "a"}))
    neighbour.wait_secret("s", {"k": "0"})
    space.put("a", "1")
    many = "array:\n" + "".join(f"- 'objectName: a{number}'\n" for number in range(44_000))
    assert len(many) > 1_000_000
    huge = space.provider_class(name="huge", objects=many)
    deep = space.provider_class(name="deep", objects="[" * 1_000_000)
    for manifest in (huge, deep):  # `apply` would keep a second copy in an annotation, which has a limit
        space.kubectl("create", "--filename", "-", stdin=json.dumps(manifest))
    space.apply(space.provider_class("a", "missing"), *broken(space))
    waits = []
    for number in range(5):
        # The million bytes are looked through anew at every edit.
        edit = json.dumps({"spec": {"parameters": {"tenantID": f"tenant-{number}"}}})
        space.kubectl("patch", "secretproviderclass", "huge", "--type=merge", "--patch", edit)
        waits.append(arrival(neighbour, f"{number}"))
    assert max(waits) < POLL + HELD_UP, waits
    # One who is new has no longer to wait.
    began = time.monotonic()
    neighbour.apply(neighbour.sync("new", {"k": "a"}))
    neighbour.wait_secret("new", {"k": "4"})
    assert time.monotonic() - began < HELD_UP
    # And the hostile ones were told, each with a reason.
    for number in range(10):
        assert space.ready(f"broken-{number}")[0] not in ("", Reason.INTERNAL_ERROR)


def hanging(space: Namespace) -> int:
    """How many requests have come to the vaults that let them hang."""
    counters = space.installed.emulator.counters()
    return sum(count for what, count in counters.items() if what.startswith(f"{space.vault}-"))


def test_vaults_that_hang_hold_nobody_up(space: Namespace, neighbour: Namespace) -> None:
    """A namespace that lets every request hang, as many as it can, of many vaults, leaves half of all to others."""
    neighbour.put("a", "0")
    neighbour.apply(neighbour.provider_class("a"), neighbour.sync("s", {"k": "a"}))
    neighbour.wait_secret("s", {"k": "0"})
    emulator = space.installed.emulator
    manifests = []
    for number in range(HANGING):
        vault = f"{space.vault}-{number}"
        emulator.add_vault(vault, TENANT)
        emulator.fail(kind="hang", where=vault, seconds=60)
        manifests.append(space.provider_class("a", "b", name=f"class-{number}", keyvaultName=vault))
        each = {"secretProviderClassName": f"class-{number}"}
        manifests += [space.sync(f"{name}-{number}", {"k": name}, **each) for name in ("a", "b")]
    space.apply(*manifests)
    eventually(lambda: hanging(space), lambda count: count >= AT_ONCE / 2)
    for number in range(1, 5):
        assert arrival(neighbour, f"{number}") < POLL + HELD_UP
    began = time.monotonic()
    neighbour.apply(neighbour.sync("new", {"k": "a"}))
    neighbour.wait_secret("new", {"k": "4"})
    assert time.monotonic() - began < HELD_UP
    space.wait_reason("a-0", Reason.PROVIDER_ERROR, patience=90)
