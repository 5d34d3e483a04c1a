"""Everything at once for a long time: rotations, faults, restarts and people's hands, as `steps` draws them.

Throughout, every Secret holds what its object in the vault once had, and is the one that was made first, unless it was
deleted here. At the end everything comes to the newest version, and the process is as large as it was.
"""

import base64
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.cluster.world import Installed, Namespace, eventually, metrics, value
from tests.soak.gauge import Growth, Sample, growth, sample
from tests.soak.steps import Step, steps
from tools.local_cluster.errors import ClusterError
from tools.workload import Workload

SETTINGS = {"ROTATION_POLL_INTERVAL": "10", "DRIFT_INTERVAL": "60", "LEASE_NAME": ""}
VAULTS = 4
# What failed again and again is tried after up to five minutes, and then has its turn.
SOON = 360.0
CHECK_EVERY = 10.0
SAMPLE_EVERY = 1.0
# A process has come to its size after this long, or after this part of a short life.
WARM_UP = 120.0
WARM_PART = 0.3
# What the last process may have grown by: a few connections' buffers; and in a life of minutes, what it warms up by.
MOST_MEBIBYTES = 6.0
MOST_MEBIBYTES_SOON = 12.0
SOON_AFTER = 300.0
# Connections to four vaults and Entra come and go with what is to do; and in a life of minutes most come at its end,
# should a class be edited there.
MOST_DESCRIPTORS = 40.0
MOST_DESCRIPTORS_SOON = 70.0
# Calls to a vault in a second, on the average of it all: lists, what was rotated, and what was tried again.
MOST_CALLS = 10.0
VAULT_FAULTS: list[dict[str, Any]] = [
    {"kind": "drop"},
    {"kind": "hang", "seconds": 25},
    {"kind": "drip", "status": 200, "body": json.dumps({"value": "x" * 99}), "seconds": 0.1},
    {"kind": "reset", "status": 200, "body": json.dumps({"value": "x" * 99})},
    {"kind": "garbage"},
    {"kind": "huge"},
    {"status": 500},
    {"status": 403},
    {"status": 404},
    {"status": 429, "headers": {"Retry-After": "3"}},
    {"status": 200, "body": json.dumps({"value": []}), "operation": "secrets.list"},
]
Object = tuple[str, str]  # the namespace's name, the object's name


class Soak:
    """`count` SecretSyncs of one key each, in a few namespaces with a vault each."""

    def __init__(
        self, installed: Installed, controller: Workload, count: int, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.installed = installed
        self.controller = controller
        self.tell = tell
        self.spaces = [Namespace(installed) for _ in range(VAULTS)]
        self.names = [f"s{number:04}" for number in range(count // VAULTS)]
        self.objects = [(space.name, name) for space in self.spaces for name in self.names]
        self.by_name = {space.name: space for space in self.spaces}
        self.ever: dict[Object, set[str]] = defaultdict(set)
        self.newest: dict[Object, str] = {}
        self.number = 0
        self.uids: dict[Object, str] = {}
        self.life: list[Sample] = []
        self.done: Counter[str] = Counter()
        self._sampled = self._checked = 0.0

    def run(self, seed: int, seconds: float) -> Growth:
        """All of it; the growth of the last process. What has it happen again is told first."""
        self.tell(f"--seconds {seconds:g} --count {len(self.objects)} --seed {seed}")
        self.begin()
        before, began = self.calls(), time.monotonic()
        for step in steps(seed, seconds):
            self.watch_until(began + step.at)
            self.do(step, time.monotonic() - began)
        self.watch_until(began + seconds)
        took, calls = time.monotonic() - began, self.calls() - before
        found = growth(self.life, min(WARM_UP, WARM_PART * (self.life[-1].at - self.life[0].at)))
        done = ", ".join(f"{deed} {times}" for deed, times in sorted(self.done.items()))
        self.tell(f"{found}; {calls / VAULTS / took:.1f} calls a second to each vault; {done}")
        self.close()
        assert calls <= MOST_CALLS * VAULTS * took, f"{calls} calls in {took:.0f} s"
        soon = found.seconds <= SOON_AFTER
        assert found.mebibytes <= (MOST_MEBIBYTES_SOON if soon else MOST_MEBIBYTES), found
        assert found.descriptors <= (MOST_DESCRIPTORS_SOON if soon else MOST_DESCRIPTORS), found
        return found

    def begin(self) -> None:
        """Everything is there, and synced once."""
        for item in self.objects:
            self.put(item)
        for space in self.spaces:
            space.kubectl("create", "--filename", "-", stdin=_list(space.provider_class(*self.names)))
            syncs = [space.sync(name, {"k": name}) for name in self.names]
            space.kubectl("create", "--filename", "-", stdin=_list(*syncs))
        self.arrive()
        self.sound()
        self.life.clear()

    def close(self) -> None:
        """The closing check: whatever was broken is whole, and everything comes to one more version."""
        self.installed.emulator.heal()
        self.sound()
        for item in self.objects:
            self.put(item)
        self.arrive()
        self.sound()

    def remove(self) -> None:
        """Takes the namespaces away."""
        self.installed.emulator.heal()
        for space in self.spaces:
            space.remove()

    def do(self, step: Step, at: float) -> None:
        """One step."""
        self.tell(f"{at:6.0f} s: {step.deed} {step.seed}; {self.size()}")
        self.done[step.deed] += 1
        getattr(self, step.deed)(random.Random(step.seed))

    def size(self) -> str:
        """How large the process is now."""
        return f"{self.life[-1].mebibytes:.1f} MiB, {self.life[-1].descriptors} descriptors" if self.life else "new"

    # What is done: each with dice of its own

    def rotate(self, dice: random.Random) -> None:
        """Some objects get a new version."""
        for item in dice.sample(self.objects, min(len(self.objects), dice.randint(1, 10))):
            self.put(item)

    def break_vault(self, dice: random.Random) -> None:
        """A vault fails for a while, while some of its objects are rotated."""
        space, fault = dice.choice(self.spaces), dice.choice(VAULT_FAULTS)
        self.installed.emulator.fail(where=space.vault, **fault)
        for name in dice.sample(self.names, min(len(self.names), 3)):
            self.put((space.name, name))
        self.watch_until(time.monotonic() + dice.uniform(1, 15))
        self.installed.emulator.heal()

    def break_entra(self, dice: random.Random) -> None:
        """No new token for a while, and the old ones serve no more."""
        self.installed.emulator.roll_signing_key()
        self.installed.emulator.fail(dice.choice([429, 500, 503]), where="entra")
        self.watch_until(time.monotonic() + dice.uniform(1, 10))
        self.installed.emulator.heal()

    def roll_key(self, _dice: random.Random) -> None:
        """Everybody needs a new token."""
        self.installed.emulator.roll_signing_key()

    def scribble(self, dice: random.Random) -> None:
        """Somebody writes into a Secret."""
        item = dice.choice(self.objects)
        self.ever[item].add("scribble")
        body = json.dumps({"data": {"k": base64.b64encode(b"scribble").decode()}})
        with suppress(ClusterError):  # it is being made anew just now
            self.by_name[item[0]].kubectl("patch", "secret", item[1], "--type=merge", "--patch", body)

    def delete_secret(self, dice: random.Random) -> None:
        """Somebody deletes a Secret."""
        item = dice.choice(self.objects)
        self.uids.pop(item, None)
        self.by_name[item[0]].kubectl("delete", "secret", item[1], "--ignore-not-found", "--wait=false")

    def replace(self, dice: random.Random) -> None:
        """Somebody deletes a SecretSync and applies it again at once; Kubernetes collects the old one's Secret."""
        space, name = self.by_name[(item := dice.choice(self.objects))[0]], item[1]
        self.uids.pop(item, None)
        old = self.uid(item)
        space.kubectl("delete", "secretsync", name)
        space.kubectl("create", "--filename", "-", stdin=_list(space.sync(name, {"k": name})))
        eventually(lambda: self.uid(item), lambda found: found != old or not old, SOON)

    def edit_class(self, dice: random.Random) -> None:
        """A class changes, and with it all who use it are due."""
        body = json.dumps({"spec": {"parameters": {"edited": str(dice.getrandbits(32))}}})
        dice.choice(self.spaces).kubectl("patch", "secretproviderclass", "shop", "--type=merge", "--patch", body)

    def restart(self, _dice: random.Random) -> None:
        """The controller is told to stop, and starts."""
        assert self.controller.stop() == 0
        self._start()

    def kill(self, _dice: random.Random) -> None:
        """The controller is killed, and starts."""
        self.controller.kill()
        self._start()

    def restart_apiserver(self, dice: random.Random) -> None:
        """The API server is away for a moment, and every watch is cut.

        So is the garbage collector's, which then misses that a SecretSync was replaced; a new one does not.
        """
        self.installed.plane.stop_apiserver()
        time.sleep(dice.uniform(0, 5))
        self.installed.plane.start_apiserver()
        self.installed.plane.restart_controller_manager()

    def _start(self) -> None:
        self.controller.start()
        self.controller.wait_ready(60)
        self.life.clear()

    # What is looked at

    def put(self, item: Object) -> None:
        """A new version of an object."""
        self.number += 1
        text = f"{item[0]} {item[1]} {self.number}"
        self.by_name[item[0]].put(item[1], text)
        self.newest[item] = value(text)
        self.ever[item].add(value(text))

    def look(self) -> dict[Object, tuple[str, dict[str, str]]]:
        """Every Secret's UID and values."""
        found = {}
        for space in self.spaces:
            for secret in json.loads(space.kubectl("get", "secrets", "--output", "json"))["items"]:
                data = {key: base64.b64decode(text).decode() for key, text in secret.get("data", {}).items()}
                found[space.name, secret["metadata"]["name"]] = (secret["metadata"]["uid"], data)
        return found

    def uid(self, item: Object) -> str:
        """A Secret's UID; empty where there is none."""
        return str(self.by_name[item[0]].get("secret", item[1]).get("metadata", {}).get("uid", ""))

    def sound(self) -> None:
        """Nothing is lost at this moment."""
        now = self.look()
        for item, uid in self.uids.items():
            assert item in now, f"{item} was deleted"
            assert now[item][0] == uid, f"{item} was made anew"
        for item, (_, data) in now.items():
            assert data.keys() == {"k"}, f"{item} has {sorted(data)}"
            assert data["k"] in self.ever[item], f"{item} never had that in its vault"

    def behind(self) -> list[Object]:
        """The Secrets that are not at the newest version."""
        now = self.look()
        late = [item for item in self.objects if now.get(item, ("", {}))[1] != {"k": self.newest[item]}]
        if not late:
            self.uids = {item: uid for item, (uid, _) in now.items()}
        return late

    def arrive(self) -> None:
        """Everything comes to the newest version."""
        began = time.monotonic()

        def look() -> list[Object]:
            time.sleep(1)
            self.measure()
            return self.behind()

        try:
            eventually(look, lambda late: not late, SOON)
        except AssertionError:
            for item in self.behind():
                self.tell(f"{item}: {self.by_name[item[0]].get('secretsync', item[1]).get('status')}")
            self.tell(metrics(self.controller))
            raise
        self.tell(f"everything is at the newest version after {time.monotonic() - began:.0f} s; {self.size()}")

    def watch_until(self, moment: float) -> None:
        """Samples the process and looks at the Secrets until then (monotonic clock)."""
        while (now := time.monotonic()) < moment:
            self.measure()
            if now - self._checked >= CHECK_EVERY:
                self._checked = now
                self.sound()
            time.sleep(max(0.0, min(SAMPLE_EVERY, moment - time.monotonic())))

    def measure(self) -> None:
        """One sample, unless there was one just now."""
        now = time.monotonic()
        if now - self._sampled >= SAMPLE_EVERY:
            self._sampled = now
            self.life.append(sample(self.controller.pid, now))

    def calls(self) -> int:
        """How many calls all vaults have had."""
        return sum(space.calls() for space in self.spaces)


def _list(*objects: object) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
