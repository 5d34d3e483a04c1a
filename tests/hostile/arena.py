"""Provide a control plane under attack, and the invariants that hold after every attack."""

import contextlib
import io
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from controller.api.conditions import Reason
from controller.config.settings import FIELD_MANAGER
from controller.domain import reserved
from controller.secretsync.class_reader import SMALL
from tests.support.cluster.harness import (
    KIND_PATHS,
    MANAGED_LABEL,
    InstalledRelease,
    canary_value,
    create_object,
    decode_nested_json,
    eventually,
    read_metrics,
)
from tests.support.cluster.leaks import objects, search_texts
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.token_thief import ThiefResponse, TokenThief
from tests.support.process_stats import peak_memory
from tools.cli.common import printable
from tools.cli.doctor import doctor
from tools.pods.pod_process import PodProcess

POLL = 2
SETTINGS = {"ROTATION_POLL_INTERVAL": str(POLL), "DRIFT_INTERVAL": "5"}
# Seconds after which a neighbour's new value has arrived, whatever the attack: the bound of SECURITY.md.
IN_TIME = POLL + 10.0
# So large that it is parsed in a thread, where it competes with what attackers have parsed.
LARGE_OBJECTS = "array:\n  - |\n    objectName: a\n    objectType: secret\n" + "# a comment\n" * (SMALL // 10)
# What the attackers look for besides synced values: Secrets that the controller never wrote.
TREASURE = "treasure-7c31"
CLUSTERS_OWN = ("kube-system", "kube-public", "kube-node-lease")
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_LEASES = "/apis/coordination.k8s.io/v1/leases"
_numbers = itertools.count(1)
Attack = Callable[[], None]


class Attacker(TokenThief):
    """An account whose every answer is kept, so that the closing check can search what it has seen."""

    def __init__(self, arena: "Arena", namespace: str, account: str) -> None:
        super().__init__(arena.plane, namespace, account)
        self._arena = arena

    def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", accept: str = "application/json"
    ) -> ThiefResponse:
        """Send a request and keep the answer."""
        answer = super().send(method, path, body, kind, accept)
        self._arena.seen.append((f"{method} {path}: {answer.status}", answer.text))
        return answer


class Arena:
    """A release at work, two neighbours whose values must arrive in time, and a namespace of the attackers."""

    def __init__(self, installed: InstalledRelease, controller: PodProcess) -> None:
        self.installed, self.controller = installed, controller
        self.plane, self.emulator = installed.plane, installed.emulator
        self.attacked = Namespace(installed)
        self.neighbours = [self._neighbour() for _ in range(2)]
        self.seen: list[tuple[str, str]] = []
        """What attackers were answered, by request; the closing check searches and forgets it."""
        for name in (*(each.name for each in self.neighbours), "kube-system"):
            create_object(self.plane, f"namespaces/{name}/secrets", "theirs", stringData={"key": TREASURE})
        self.pid = controller.pid
        _, _, release, account = installed.user.split(":")
        self.thief = Attacker(self, release, account)
        self.editor = self._attacker("editor", "edit", self.attacked.name)
        self.viewer = self._attacker("viewer", "view", self.neighbours[0].name)
        self._limit = memory_limit(installed)
        self._lease = self._holder()
        self._foreign = self._foreign_objects()
        self._own_leases = self._leases()

    def _neighbour(self) -> Namespace:
        found = Namespace(self.installed)
        found.set_secret("a", f"{found.name}-first")
        found.apply(found.provider_class(objects=LARGE_OBJECTS), found.sync("s", {"k": "a"}))
        found.wait_secret("s", {"k": f"{found.name}-first"})
        return found

    def carry_out(self, attacks: Mapping[str, Attack]) -> None:
        """Carry out attacks one after the other; the name of one that fails is in the error."""
        for name, attack in attacks.items():
            try:
                attack()
            except BaseException as error:
                error.add_note(f"attack: {name}")
                raise

    def clear(self) -> None:
        """Delete everything that attackers have created in their namespace."""
        for kind in ("akvsync", "secretsync", "secretproviderclass", "deployment", "secret"):
            status, text = self.plane.request("DELETE", KIND_PATHS[kind].format(self.attacked.name))
            assert status == 200, text
        eventually(lambda: self.attacked.list_names("secretsync"), lambda names: not names)

    def remove(self) -> None:
        """Delete what the arena has created."""
        for space in (self.attacked, *self.neighbours):
            space.remove()

    def _attacker(self, name: str, role: str, namespace: str) -> Attacker:
        """Create a ServiceAccount that has one ClusterRole in a namespace, and act as it."""
        at = ("--namespace", namespace)
        self.plane.kubectl("create", "serviceaccount", name, *at)
        self.plane.kubectl(
            "create", "rolebinding", name, f"--clusterrole={role}", f"--serviceaccount={namespace}:{name}", *at
        )
        found = Attacker(self, namespace, name)
        path = KIND_PATHS["secretsync"].format(namespace)
        eventually(lambda: found.send("GET", path).status, lambda status: status == 200)
        return found

    def force(self, name: str) -> None:
        """Have a SecretSync of the attackers' namespace ask its vault now; sooner than kubectl would."""
        path = f"{KIND_PATHS['secretsync'].format(self.attacked.name)}/{name}"
        sync = decode_nested_json(self.plane.request("GET", path)[1])
        sync["spec"]["forceSynchronization"] = f"now-{time.monotonic_ns()}"
        self.plane.request("PUT", path, sync)  # a conflict with a status is no matter: the next one is forced again

    def wait_answer(self, name: str) -> str:
        """Wait for the status of a SecretSync of the attackers; return its message. A failure of our own is none."""
        reason, message = eventually(lambda: self.attacked.ready_condition(name), lambda found: found[0], patience=60)
        assert reason != Reason.INTERNAL_ERROR, f"{name}: {message}"
        return message

    # Neighbours

    def arrivals(self) -> list[float]:
        """Give each neighbour a new value; return the seconds until each of the Secrets has it."""
        with ThreadPoolExecutor(len(self.neighbours)) as pool:
            return list(pool.map(self._arrival, self.neighbours))

    def _arrival(self, space: Namespace) -> float:
        text = f"{space.name}-{next(_numbers)}"
        space.set_secret("a", text)
        began = time.monotonic()
        space.wait_secret("s", {"k": text}, patience=120)
        return time.monotonic() - began

    def new_namespace(self) -> float:
        """Return the seconds in which a namespace with a new identity, vault and connection gets its first value."""
        began = time.monotonic()
        space = self._neighbour()
        took = time.monotonic() - began
        space.remove()
        return took

    def endure(self, *attacks: Attack) -> None:
        """Run the attacks side by side; meanwhile new values arrive in time, in old namespaces and in a new one."""
        with ThreadPoolExecutor(len(attacks)) as pool:
            running = [pool.submit(attack) for attack in attacks]
            waits: list[float] = []
            while not waits or not all(each.done() for each in running):
                waits += [*self.arrivals(), self.new_namespace()]
            for each in running:
                each.result()
        assert max(waits) < IN_TIME, f"seconds until new values arrived: {waits}"

    # The closing check

    def assert_unharmed(self) -> None:
        """Check everything that no attack may change."""
        waits = [*self.arrivals(), self.new_namespace()]
        assert max(waits) < IN_TIME, f"seconds until new values arrived: {waits}"
        assert self.controller.pid == self.pid, "the controller has been restarted"
        assert self.controller.running, "the controller has ended"
        peak = peak_memory(self.pid)
        assert peak < self._limit, f"{peak / 2**20:.0f} MiB of at most {self._limit / 2**20:.0f} MiB"
        assert self._holder() == self._lease, "the Lease has changed hands"
        problems = [*self.disclosed(), *self.planted(), *self.unprintable()]
        assert not problems, "\n".join(problems)

    def disclosed(self) -> Iterator[str]:
        """Yield where a neighbour's value, or a Secret that the controller never wrote, is outside its Secret."""
        values = [canary_value(f"{each.name}-").encode() for each in self.neighbours] + [TREASURE.encode()]
        seen, self.seen = self.seen, []
        # An attacker may ask for tokens of its own ServiceAccounts; elsewhere there is none.
        yield from (found for found in search_texts(seen, values) if found.startswith("a value"))
        places = [("log", self.controller.log.read_text()), ("metrics", read_metrics(self.controller))]
        yield from search_texts([*places, *objects(self.plane)], values)

    def planted(self) -> Iterator[str]:
        """Yield what was created or changed and must not have been."""
        after = self._foreign_objects()
        for name in self._foreign.keys() | after.keys():
            if self._foreign.get(name) != after.get(name):
                yield f"{name} was created, changed or deleted"
        for name in self._leases() ^ self._own_leases:
            yield f"Lease {name} was created or deleted"
        for secret in self._list("/api/v1/secrets"):
            for problem in secret_problems(secret):
                yield f"Secret {secret['metadata']['namespace']}/{secret['metadata']['name']}: {problem}"
        for event in self._list("/apis/events.k8s.io/v1/events"):
            if FIELD_MANAGER in event.get("reportingController", "") and (problem := event_problem(event)):
                yield f"event {event['metadata']['namespace']}/{event['metadata']['name']}: {problem}"

    def unprintable(self) -> Iterator[str]:
        """Yield where text that is not printable comes out: log, metrics, messages."""
        for number, line in enumerate(self.controller.log.read_text().splitlines()):
            try:
                json.loads(line)
            except ValueError:
                yield f"line {number} of the log is no JSON: {line[:200]!r}"
        conditions = [
            condition.get("message", "")
            for kind in ("secretsync", "akvsync")
            for item in self._list(KIND_PATHS[kind].replace("/namespaces/{}", ""))
            for condition in item.get("status", {}).get("conditions", [])
        ]
        notes = [
            event.get("note", "")
            for event in self._list("/apis/events.k8s.io/v1/events")
            if FIELD_MANAGER in event.get("reportingController", "")
        ]
        places = {
            "the log": self.controller.log.read_text().replace("\n", ""),
            "metrics": read_metrics(self.controller).replace("\n", ""),
            "a condition": "".join(conditions),
            "an event": "".join(notes),
        }
        for place, text in places.items():
            if odd := {each for each in text if not printable.is_printable(each)}:
                yield f"{place} has {sorted(map(hex, map(ord, odd)))}"

    def doctor(self, namespace: str) -> str:
        """Return what `tools/doctor` prints for a namespace, as an administrator of the cluster runs it."""
        host = urlsplit(self.emulator.authority).netloc
        words = ["--kubeconfig", str(self.plane.kubeconfig), "--namespace", namespace, "--allow-host", host]
        return printed(lambda: doctor.main(words))

    # What there is

    def _list(self, path: str) -> list[dict[str, Any]]:
        status, text = self.plane.request("GET", path)
        assert status == 200, text
        found: list[dict[str, Any]] = decode_nested_json(text)["items"]
        return found

    def _foreign_objects(self) -> dict[str, Any]:
        """Return what the attackers have no right to change, by name, with its contents."""
        found = {}
        for secret in self._list("/api/v1/secrets"):
            meta = secret["metadata"]
            if meta["namespace"] in CLUSTERS_OWN or meta["name"] == "theirs":
                found[f"Secret {meta['namespace']}/{meta['name']}"] = secret
        for space in self.neighbours:
            for kind in ("secretsync", "secretproviderclass", "akvsync", "serviceaccount", "deployment"):
                for item in self._list(KIND_PATHS[kind].format(space.name)):
                    meta = item["metadata"]
                    kept = {key: text for key, text in meta.items() if key not in ("resourceVersion", "managedFields")}
                    found[f"{kind} {space.name}/{meta['name']}"] = {"metadata": kept, "spec": item.get("spec")}
        return found

    def _leases(self) -> set[str]:
        return {f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in self._list(_LEASES)}

    def _holder(self) -> tuple[str, int]:
        name = self.controller.env["LEASE_NAME"]
        [lease] = [item for item in self._list(_LEASES) if item["metadata"]["name"] == name]
        return lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]


def memory_limit(installed: InstalledRelease) -> int:
    """Return the bytes that the chart's default values allow the controller's container."""
    at = ("--namespace", installed.release, "--output", "json")
    found = json.loads(installed.plane.kubectl("get", "deployment", installed.deployment, *at))
    text = str(found["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
    return int(text[:-2]) * UNITS[text[-2:]]


def secret_problems(secret: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the controller's account must not have put into a Secret."""
    meta = secret["metadata"]
    written = [
        each["fieldsV1"] for each in meta.get("managedFields", ()) if each["manager"] in (FIELD_MANAGER, "thief")
    ]
    if not written:
        return
    text = json.dumps(written)
    if meta["namespace"] in CLUSTERS_OWN:
        yield "it is in a namespace of the cluster's own"
    if '"f:finalizers"' in text and meta.get("finalizers"):
        yield f"it has finalizers {meta['finalizers']}"
    if '"f:immutable"' in text and secret.get("immutable"):
        yield "it is immutable"
    ours = {field: _written(written, field, meta.get(field, {})) for field in ("labels", "annotations")}
    if problem := reserved.find_reserved(meta["name"], ours["labels"], ours["annotations"]):
        yield f"it has what other tools obey: {problem}"
    owners = meta.get("ownerReferences", [])
    shape = [(each["apiVersion"], each["kind"], each["name"]) for each in owners]
    if shape != [("secret-sync.x-k8s.io/v1alpha1", "SecretSync", meta["name"])]:
        yield f"its owners are {shape}"
    if not MANAGED_LABEL.items() <= meta.get("labels", {}).items():
        yield "it has lost the label of synced Secrets"


def _written(entries: Iterable[Mapping[str, Any]], field: str, now: Mapping[str, str]) -> dict[str, str]:
    """Return those labels or annotations that these managed fields have set."""
    keys = {key.removeprefix("f:") for each in entries for key in each.get("f:metadata", {}).get(f"f:{field}", {})}
    return {key: text for key, text in now.items() if key in keys}


def event_problem(event: Mapping[str, Any]) -> str:
    """Return what is wrong with an event that names the controller as its origin."""
    regarding = event["regarding"]
    if regarding["kind"] not in ("SecretSync", "AKVSync"):
        return f"it is about a {regarding['kind']}"
    if regarding["namespace"] != event["metadata"]["namespace"]:
        return f"it is about an object of {regarding['namespace']}"
    return ""


def printed(program: Callable[[], object]) -> str:
    """Return what a program prints to stdout and stderr."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        program()
    return text.getvalue()


def paced(per_second: float, seconds: float, attack: Callable[[int], object]) -> Attack:
    """Return an attack that calls with 0, 1, 2, … at this rate for so many seconds."""

    def run() -> None:
        pause, began = threading.Event(), time.monotonic()
        for number in range(int(per_second * seconds)):
            attack(number)
            pause.wait(max(0.0, began + (number + 1) / per_second - time.monotonic()))
            if time.monotonic() - began > seconds:
                return

    return run
