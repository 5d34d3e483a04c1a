"""Run rotations, faults, restarts and edits by users for a long time, as `steps` draws them.

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

from tests.soak.gauge import Growth, Sample, growth, sample
from tests.soak.steps import Step, steps
from tests.support.cluster.harness import InstalledRelease, canary_value, eventually, read_metrics
from tests.support.cluster.namespace import Namespace
from tools.local_cluster.errors import ClusterError
from tools.pods.pod_process import PodProcess

SETTINGS = {"ROTATION_POLL_INTERVAL": "10", "DRIFT_INTERVAL": "60", "LEASE_NAME": ""}
VAULTS = 4
# After many failures, the next attempt comes within five minutes.
SOON = 360.0
CHECK_EVERY = 10.0
SAMPLE_EVERY = 1.0
# A process has come to its size after this long, or after this part of a short life.
WARM_UP = 120.0
WARM_PART = 0.3
# What the last process may have grown by: a few connections' buffers; and in a life of minutes, what it warms up by.
MAX_MEBIBYTES = 6.0
MAX_MEBIBYTES_SOON = 12.0
SOON_AFTER = 300.0
# Connections to four vaults and Entra come and go with what is to do; and in a life of minutes most come at its end,
# should a class be edited there.
MAX_DESCRIPTORS = 40.0
MAX_DESCRIPTORS_SOON = 70.0
# Calls to a vault in a second, on the average of it all: lists, what was rotated, and what was tried again.
MAX_CALLS = 10.0
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
        self,
        installed: InstalledRelease,
        controller: PodProcess,
        count: int,
        tell: Callable[[str], None] = lambda _: None,
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
        """Run the soak, and return the memory growth of the last process. Print first how to repeat the run."""
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
        assert calls <= MAX_CALLS * VAULTS * took, f"{calls} calls in {took:.0f} s"
        soon = found.seconds <= SOON_AFTER
        assert found.mebibytes <= (MAX_MEBIBYTES_SOON if soon else MAX_MEBIBYTES), found
        assert found.descriptors <= (MAX_DESCRIPTORS_SOON if soon else MAX_DESCRIPTORS), found
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
        """Check that all faults are over, and that each Secret gets one more version."""
        self.installed.emulator.clear_faults()
        self.sound()
        for item in self.objects:
            self.put(item)
        self.arrive()
        self.sound()

    def remove(self) -> None:
        """Remove the namespaces."""
        self.installed.emulator.clear_faults()
        for space in self.spaces:
            space.remove()

    def do(self, step: Step, at: float) -> None:
        """Do one step."""
        self.tell(f"{at:6.0f} s: {step.deed} {step.seed}; {self.size()}")
        self.done[step.deed] += 1
        getattr(self, step.deed)(random.Random(step.seed))

    def size(self) -> str:
        """Return the size of the process."""
        return f"{self.life[-1].mebibytes:.1f} MiB, {self.life[-1].descriptors} descriptors" if self.life else "new"

    # The actions. Each has its own random source.

    def rotate(self, rng: random.Random) -> None:
        """Give some objects a new version."""
        for item in rng.sample(self.objects, min(len(self.objects), rng.randint(1, 10))):
            self.put(item)

    def break_vault(self, rng: random.Random) -> None:
        """Let a vault fail for a while, and rotate some of its objects during the failure."""
        space, fault = rng.choice(self.spaces), rng.choice(VAULT_FAULTS)
        self.installed.emulator.fail(where=space.vault, **fault)
        for name in rng.sample(self.names, min(len(self.names), 3)):
            self.put((space.name, name))
        self.watch_until(time.monotonic() + rng.uniform(1, 15))
        self.installed.emulator.clear_faults()

    def break_entra(self, rng: random.Random) -> None:
        """No new token for a while, and the old ones serve no more."""
        self.installed.emulator.roll_signing_key()
        self.installed.emulator.fail(rng.choice([429, 500, 503]), where="entra")
        self.watch_until(time.monotonic() + rng.uniform(1, 10))
        self.installed.emulator.clear_faults()

    def roll_key(self, _rng: random.Random) -> None:
        """Everybody needs a new token."""
        self.installed.emulator.roll_signing_key()

    def scribble(self, rng: random.Random) -> None:
        """Edit a Secret as a user."""
        item = rng.choice(self.objects)
        self.ever[item].add("scribble")
        body = json.dumps({"data": {"k": base64.b64encode(b"scribble").decode()}})
        with suppress(ClusterError):  # the controller is recreating it
            self.by_name[item[0]].kubectl("patch", "secret", item[1], "--type=merge", "--patch", body)

    def delete_secret(self, rng: random.Random) -> None:
        """Delete a Secret as a user."""
        item = rng.choice(self.objects)
        self.uids.pop(item, None)
        self.by_name[item[0]].kubectl("delete", "secret", item[1], "--ignore-not-found", "--wait=false")

    def replace(self, rng: random.Random) -> None:
        """Delete a SecretSync, and apply it again at once. The garbage collector deletes the old Secret."""
        space, name = self.by_name[(item := rng.choice(self.objects))[0]], item[1]
        self.uids.pop(item, None)
        old = self.uid(item)
        space.kubectl("delete", "secretsync", name)
        space.kubectl("create", "--filename", "-", stdin=_list(space.sync(name, {"k": name})))
        eventually(lambda: self.uid(item), lambda found: found != old or not old, SOON)

    def edit_class(self, rng: random.Random) -> None:
        """Change a class, which makes all its SecretSyncs due."""
        body = json.dumps({"spec": {"parameters": {"edited": str(rng.getrandbits(32))}}})
        rng.choice(self.spaces).kubectl("patch", "secretproviderclass", "shop", "--type=merge", "--patch", body)

    def restart(self, _rng: random.Random) -> None:
        """Stop the controller, and start it again."""
        assert self.controller.stop() == 0
        self._start()

    def kill(self, _rng: random.Random) -> None:
        """Kill the controller, and start it again."""
        self.controller.kill()
        self._start()

    def restart_apiserver(self, rng: random.Random) -> None:
        """Stop the API server for a moment, which ends each watch.

        So is the garbage collector's, which then misses that a SecretSync was replaced; a new one does not.
        """
        self.installed.plane.stop_apiserver()
        time.sleep(rng.uniform(0, 5))
        self.installed.plane.start_apiserver()
        self.installed.plane.restart_controller_manager()

    def _start(self) -> None:
        self.controller.start()
        self.controller.wait_ready(60)
        self.life.clear()

    # What is looked at

    def put(self, item: Object) -> None:
        """Set a new version of an object."""
        self.number += 1
        text = f"{item[0]} {item[1]} {self.number}"
        self.by_name[item[0]].set_secret(item[1], text)
        self.newest[item] = canary_value(text)
        self.ever[item].add(canary_value(text))

    def look(self) -> dict[Object, tuple[str, dict[str, str]]]:
        """Return the UID and values of each Secret."""
        found = {}
        for space in self.spaces:
            for secret in space.list_objects("secret"):
                data = {key: base64.b64decode(text).decode() for key, text in secret.get("data", {}).items()}
                found[space.name, secret["metadata"]["name"]] = (secret["metadata"]["uid"], data)
        return found

    def uid(self, item: Object) -> str:
        """Return the UID of a Secret; an empty text if there is none."""
        return str(self.by_name[item[0]].get("secret", item[1]).get("metadata", {}).get("uid", ""))

    def sound(self) -> None:
        """Nothing is lost at this moment."""
        now = self.look()
        for item, uid in self.uids.items():
            assert item in now, f"{item} was deleted"
            assert now[item][0] == uid, f"{item} was recreated"
        for item, (_, data) in now.items():
            assert data.keys() == {"k"}, f"{item} has {sorted(data)}"
            assert data["k"] in self.ever[item], f"{item} never had that in its vault"

    def behind(self) -> list[Object]:
        """Return the Secrets that do not have the newest version."""
        now = self.look()
        late = [item for item in self.objects if now.get(item, ("", {}))[1] != {"k": self.newest[item]}]
        if not late:
            self.uids = {item: uid for item, (uid, _) in now.items()}
        return late

    def arrive(self) -> None:
        """Wait until all Secrets have the newest version."""
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
            self.tell(read_metrics(self.controller))
            raise
        self.tell(f"everything is at the newest version after {time.monotonic() - began:.0f} s; {self.size()}")

    def watch_until(self, moment: float) -> None:
        """Sample the process, and check the Secrets, until that time (monotonic clock)."""
        while (now := time.monotonic()) < moment:
            self.measure()
            if now - self._checked >= CHECK_EVERY:
                self._checked = now
                self.sound()
            time.sleep(max(0.0, min(SAMPLE_EVERY, moment - time.monotonic())))

    def measure(self) -> None:
        """Take one sample, unless the last one is recent."""
        now = time.monotonic()
        if now - self._sampled >= SAMPLE_EVERY:
            self._sampled = now
            self.life.append(sample(self.controller.pid, now))

    def calls(self) -> int:
        """Return the number of calls to all vaults."""
        return sum(space.count_calls() for space in self.spaces)


def _list(*objects: object) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
