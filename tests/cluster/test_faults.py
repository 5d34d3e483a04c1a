"""Whatever goes wrong outside, at its worst moment: each case ends with the same check, `Fleet.closes`.

Every Secret holds what its vault once had, and the newest soon after the trouble is over; nothing was deleted, made
anew or blanked; what is somebody else's was not touched; and the vaults were not stormed meanwhile.
"""

import base64
import json
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.cluster.world import Installed, Namespace, eventually, value
from tools.keyvault_emulator.errors import EmulatorError
from tools.local_cluster.errors import ClusterError
from tools.workload import Workload

POLL = 2
# What failed is tried again after 2, 4, 8 … s, so after twenty seconds of trouble within another 32; and a
# vault that was throttled has its calls at the pace that it bore.
SOON = 60.0
# The dice of these tests; the same seed, the same moments.
SEED = 20301
SYNCS = {"one": {"k": "a"}, "two": {"k": "b"}, "both": {"a": "a", "b": "b"}}

# One vault each, all at the same time.
VAULT_FAULTS: dict[str, dict[str, Any]] = {
    "refused": {"kind": "drop"},
    "hangs": {"kind": "hang", "seconds": 25},
    "drips": {"kind": "drip", "status": 200, "body": json.dumps({"value": "x" * 99}), "seconds": 1},
    "reset in the middle": {"kind": "reset", "status": 200, "body": json.dumps({"value": "x" * 99})},
    "garbage": {"kind": "garbage"},
    "null": {"status": 200, "body": "null"},
    "500": {"status": 500},
    "503": {"status": 503},
    "429 with Retry-After": {"retry_after": 4},
    "429 without": {"retry_after": None},
    "a redirect": {"status": 302},
    "100 MB": {"kind": "huge"},
    "an empty list": {"status": 200, "body": json.dumps({"value": []}), "operation": "secrets.list"},
    "a list without end": {"status": 200, "operation": "secrets.list"},
}
BAIT = "bait-vault"


class Fleet:
    """Namespaces with a vault and some SecretSyncs each, and all that their vaults ever had."""

    def __init__(self, installed: Installed) -> None:
        self.installed = installed
        self.spaces = {name: Namespace(installed) for name in VAULT_FAULTS}
        self.ever: dict[str, set[str]] = defaultdict(set)
        self.number = 0
        self.rotate()
        for space in self.spaces.values():
            theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "data": {"k": "eA=="}}
            syncs = (space.sync(name, data) for name, data in SYNCS.items())
            space.apply(theirs, space.provider_class("a", "b"), *syncs)
        self.arrives()
        self.first = self.look()

    def rotate(self) -> None:
        """A new version of everything, in every vault."""
        self.number += 1
        for space in self.spaces.values():
            for name in ("a", "b"):
                text = f"{space.name} {name} {self.number}"
                space.put(name, text)
                self.ever[space.name].add(value(text))

    def look(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Every Secret of the fleet, by namespace and name."""
        names = {space.name for space in self.spaces.values()}
        listed = json.loads(self.installed.plane.kubectl("get", "secrets", "--all-namespaces", "-o", "json"))
        found = ((item["metadata"]["namespace"], item["metadata"]["name"], item) for item in listed["items"])
        return {(namespace, name): item for namespace, name, item in found if namespace in names}

    def sound(self) -> None:
        """Nothing is lost at this moment."""
        now = self.look()
        assert now.keys() == self.first.keys()
        for (namespace, name), item in now.items():
            before = self.first[namespace, name]
            if name == "theirs":
                assert item == before
                continue
            assert item["metadata"]["uid"] == before["metadata"]["uid"], "made anew"
            assert item["data"].keys() == SYNCS[name].keys()
            for key, text in item["data"].items():
                found = base64.b64decode(text).decode()
                assert found in self.ever[namespace], f"{namespace}/{name}: {key} never was in the vault"
                assert f" {SYNCS[name][key]} " in found, f"{namespace}/{name}: {key} is another object's"

    def behind(self, *faults: str) -> list[str]:
        """The Secrets that are not at the newest version yet."""
        names = {self.spaces[fault].name for fault in faults} or {space.name for space in self.spaces.values()}
        now, late = self.look(), []
        for namespace in sorted(names):
            for name, keys in SYNCS.items():
                data = now.get((namespace, name), {}).get("data", {})
                wanted = {key: value(f"{namespace} {path} {self.number}") for key, path in keys.items()}
                if {key: base64.b64decode(text).decode() for key, text in data.items()} != wanted:
                    late.append(f"{namespace}/{name}")
        return late

    def arrives(self, *faults: str, patience: float = SOON) -> None:
        """Everything comes to the newest version; of these vaults, or all."""
        eventually(lambda: self.behind(*faults), lambda late: not late, patience)

    def endures(self, seconds: float, *, rotating: bool = True) -> None:
        """The trouble lasts so long, while everything is rotated again and again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if rotating:
                self.rotate()
            with suppress(ClusterError):  # the API server may be the trouble
                self.sound()
            time.sleep(0.5)

    def calls(self) -> dict[str, int]:
        """How many calls each vault has had, by its fault."""
        return {fault: space.calls() for fault, space in self.spaces.items()}

    def closes(self, patience: float = SOON) -> None:
        """The closing check."""
        self.sound()
        self.rotate()
        self.arrives(patience=patience)
        self.sound()


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """Alone, so that nobody waits for a killed leader's lease."""
    return {"ROTATION_POLL_INTERVAL": str(POLL), "DRIFT_INTERVAL": "5", "LEASE_NAME": ""}


@pytest.fixture(scope="module")
def fleet(installed: Installed, controller: Workload) -> Iterator[Fleet]:
    with suppress(EmulatorError):  # a second run on the same emulator has it
        installed.emulator.add_vault(BAIT, "00000000-0000-0000-0000-00000000000a")
    found = Fleet(installed)
    yield found
    installed.emulator.heal()
    for space in found.spaces.values():
        space.remove()


@pytest.fixture(autouse=True)
def over(installed: Installed) -> Iterator[None]:
    """Whatever a test has broken is whole again for the next."""
    yield
    installed.emulator.heal()
    installed.emulator.restore()
    installed.emulator.set_clock(0)


def test_a_vault_fails_in_any_way(fleet: Fleet) -> None:
    emulator = fleet.installed.emulator
    before = fleet.calls()
    for name, given in VAULT_FAULTS.items():
        fault, space = dict(given), fleet.spaces[name]
        if name.startswith("429"):  # less than is wanted, as where many share a vault
            emulator.throttle(space.vault, 15, **fault)
            continue
        if name == "a redirect":
            fault["headers"] = {"Location": f"{emulator.url}/{BAIT}/secrets/a?api-version=7.6"}
        if name == "a list without end":
            link = f"{emulator.url}/{space.vault}/secrets?api-version=7.6&$skiptoken=1"
            fault["body"] = json.dumps({"value": [], "nextLink": link})
        emulator.fail(where=space.vault, **fault)
    seconds = 12.0
    fleet.endures(seconds)
    # Gets work there: whatever the list says, the newest arrives.
    fleet.arrives("an empty list", "a list without end", patience=4 * POLL)
    took = {fault: now - before[fault] for fault, now in fleet.calls().items()}
    assert not [key for key in emulator.counters() if key.startswith(BAIT)], "a redirect was followed"
    emulator.heal()
    for name, calls in took.items():
        # A vault that fails is left alone for 5 s; one that answers some calls is asked at every poll.
        most = 8 * seconds if "list" in name or "429" in name else 5 + seconds
        assert calls <= most, f"{name}: {calls} calls"
    fleet.closes()


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(lambda emulator: emulator.certificate_flaw("expired"), id="expired TLS"),
        pytest.param(lambda emulator: emulator.certificate_flaw("unknown-ca"), id="wrong CA"),
        pytest.param(lambda emulator: emulator.set_clock(3600), id="clock ahead by an hour"),
        pytest.param(lambda emulator: emulator.set_clock(-3600), id="clock behind by an hour"),
        pytest.param(lambda emulator: emulator.fail(kind="drop", where="entra"), id="Entra down"),
        pytest.param(lambda emulator: emulator.delay(2, where="entra"), id="Entra slow"),
        pytest.param(
            lambda emulator: emulator.fail(429, headers={"Retry-After": "3"}, where="entra"), id="Entra throttled"
        ),
    ],
)
def test_everything_outside_fails(fleet: Fleet, begin: Callable[[Any], None]) -> None:
    emulator = fleet.installed.emulator

    def to_entra() -> int:
        return sum(count for what, count in emulator.counters().items() if what.startswith("entra/"))

    before, entra, seconds = fleet.calls(), to_entra(), 4.0
    # Tokens that Entra gave would serve on: with its key rolled, everybody needs a new one.
    emulator.roll_signing_key()
    begin(emulator)
    fleet.endures(seconds)
    took = max(now - before[fault] for fault, now in fleet.calls().items())
    assert took <= 10 + 4 * seconds
    assert to_entra() - entra <= 3 * len(fleet.spaces)
    emulator.heal()
    emulator.set_clock(0)
    fleet.closes()


def test_the_api_server_restarts_in_the_middle_of_a_rotation(fleet: Fleet) -> None:
    plane = fleet.installed.plane
    fleet.rotate()
    time.sleep(POLL / 2)
    plane.stop_apiserver()  # every watch is cut
    fleet.rotate()
    time.sleep(POLL)
    plane.start_apiserver()
    fleet.closes()


def bindings(installed: Installed) -> list[dict[str, Any]]:
    """What gives the controller its rights, as it can be applied again."""
    found = []
    for kind in ("clusterrolebindings", "rolebindings"):
        for item in json.loads(installed.plane.kubectl("get", kind, "--all-namespaces", "-o", "json"))["items"]:
            users = {f"system:serviceaccount:{s.get('namespace')}:{s['name']}" for s in item.get("subjects", [])}
            if installed.user in users:
                for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
                    item["metadata"].pop(name, None)
                found.append(item)
    return found


def test_the_controllers_rights_are_taken_and_given_back(fleet: Fleet) -> None:
    plane = fleet.installed.plane
    taken = json.dumps({"apiVersion": "v1", "kind": "List", "items": bindings(fleet.installed)})
    before = fleet.calls()
    plane.kubectl("delete", "--filename", "-", stdin=taken)
    try:
        fleet.endures(6)
        took = max(now - before[fault] for fault, now in fleet.calls().items())
    finally:
        plane.kubectl("create", "--filename", "-", stdin=taken)
    assert took <= 50
    fleet.closes()


def test_the_classes_kind_is_removed_and_comes_back(fleet: Fleet) -> None:
    """The SecretSyncs' own cannot be: with it Kubernetes collects what they own, as SSE's guide says."""
    plane = fleet.installed.plane
    name = "secretproviderclasses.secrets-store.csi.x-k8s.io"
    crd = json.loads(plane.kubectl("get", "customresourcedefinition", name, "-o", "json"))
    crd = {
        **crd,
        "metadata": {key: crd["metadata"][key] for key in ("name", "labels", "annotations") if key in crd["metadata"]},
    }
    crd.pop("status")
    plane.kubectl("delete", "customresourcedefinition", name)
    fleet.endures(4)
    plane.kubectl("create", "--filename", "-", stdin=json.dumps(crd))
    plane.kubectl("wait", "--for=condition=Established", f"customresourcedefinition/{name}")

    def applied(space: Namespace) -> bool:
        try:
            space.apply(space.provider_class("a", "b"))
        except ClusterError:  # discovery has not heard of it yet
            return False
        return True

    for space in fleet.spaces.values():
        eventually(lambda space=space: applied(space), bool)  # type: ignore[misc]
    fleet.closes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_controller_ends_at_any_moment_of_a_storm(fleet: Fleet, controller: Workload, number: int) -> None:
    dice = random.Random(SEED + number)
    for _ in range(3):
        fleet.rotate()
        time.sleep(dice.uniform(0.05, 1.5 * POLL))
        fleet.rotate()
        if number == signal.SIGKILL:
            controller.kill()
        else:
            assert controller.stop() == 0
        fleet.sound()
        controller.start()
        controller.wait_ready()
    fleet.closes()
