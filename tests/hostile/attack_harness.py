"""Provide a control plane with attackers, and check the invariants that hold after every attack."""

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
    assert_running,
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
from tools.keyvault_emulator import Emulator
from tools.pods.pod_process import PodProcess

POLL = 2
SETTINGS = {"ROTATION_POLL_INTERVAL": str(POLL), "DRIFT_INTERVAL": "5"}
# Seconds in which a neighbour's new value must arrive during any attack. SECURITY.md promises this limit.
IN_TIME = POLL + 10.0
# The controller parses such a large class in a thread, as it does with large classes of the attackers.
LARGE_OBJECTS = "array:\n  - |\n    objectName: a\n    objectType: secret\n" + "# a comment\n" * (SMALL // 10)
# The value of Secrets that the controller never wrote. Attackers try to read it.
UNSYNCED_VALUE = "unsynced-7c31"
KUBERNETES_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease")
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_LEASES = "/apis/coordination.k8s.io/v1/leases"
_numbers = itertools.count(1)
Attack = Callable[[], None]


class Attacker(TokenThief):
    """An account of an attacker. The harness keeps its responses, and the closing check searches them for values."""

    def __init__(self, harness: "AttackHarness", namespace: str, account: str) -> None:
        super().__init__(harness.plane, namespace, account)
        self._harness = harness

    def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", accept: str = "application/json"
    ) -> ThiefResponse:
        """Send a request and keep the response."""
        answer = super().send(method, path, body, kind, accept)
        self._harness.responses.append((f"{method} {path}: {answer.status}", answer.text))
        return answer


class AttackHarness:
    """A running release, two neighbours whose values must arrive in time, and a namespace of the attackers."""

    def __init__(self, installed: InstalledRelease, controller: PodProcess) -> None:
        self.installed, self.controller = installed, controller
        self.plane, self.emulator = installed.plane, installed.emulator
        self.attacked = Namespace(installed)
        self.neighbours = [self._create_neighbour() for _ in range(2)]
        self.responses: list[tuple[str, str]] = []
        """The responses to the attackers' requests. The closing check searches and clears them."""
        for name in (*(each.name for each in self.neighbours), "kube-system"):
            create_object(self.plane, f"namespaces/{name}/secrets", "theirs", stringData={"key": UNSYNCED_VALUE})
        self.pid = controller.pid
        _, _, release, account = installed.user.split(":")
        self.thief = Attacker(self, release, account)
        self.editor = self._create_attacker("editor", "edit", self.attacked.name)
        self.viewer = self._create_attacker("viewer", "view", self.neighbours[0].name)
        self._limit = read_memory_limit(installed)
        self._leader = self._read_leader()
        self._foreign = self._list_foreign_objects()
        self._own_leases = self._list_leases()
        self._checked_lines = 0

    def _create_neighbour(self) -> Namespace:
        found = Namespace(self.installed)
        found.set_secret("a", f"{found.name}-first")
        found.apply(found.provider_class(objects=LARGE_OBJECTS), found.sync("s", {"k": "a"}))
        found.wait_secret("s", {"k": f"{found.name}-first"})
        return found

    def run_attacks(self, attacks: Mapping[str, Attack]) -> None:
        """Run attacks one after the other. Add the name of a failed attack to its error."""
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
        """Delete the namespaces that the harness has created."""
        for space in (self.attacked, *self.neighbours):
            space.remove()

    def _create_attacker(self, name: str, role: str, namespace: str) -> Attacker:
        """Create a ServiceAccount with one ClusterRole in a namespace. Return it as an attacker."""
        flags = ("--namespace", namespace)
        self.plane.kubectl("create", "serviceaccount", name, *flags)
        self.plane.kubectl(
            "create", "rolebinding", name, f"--clusterrole={role}", f"--serviceaccount={namespace}:{name}", *flags
        )
        found = Attacker(self, namespace, name)
        path = KIND_PATHS["secretsync"].format(namespace)
        eventually(lambda: found.send("GET", path).status, lambda status: status == 200)
        return found

    def force_sync(self, name: str) -> None:
        """Force a sync of a SecretSync in the attackers' namespace. This request is faster than kubectl."""
        path = f"{KIND_PATHS['secretsync'].format(self.attacked.name)}/{name}"
        sync = decode_nested_json(self.plane.request("GET", path)[1])
        sync["spec"]["forceSynchronization"] = f"now-{time.monotonic_ns()}"
        # A conflict with a status is harmless, because the next attack forces a sync again.
        self.plane.request("PUT", path, sync)

    def wait_status(self, name: str) -> str:
        """Wait for the status of an attackers' SecretSync. Fail on an internal error. Return the message."""

        def read_condition() -> tuple[str, str]:
            self.assert_running()
            return self.attacked.ready_condition(name)

        reason, message = eventually(read_condition, lambda found: found[0], patience=60)
        assert reason != Reason.INTERNAL_ERROR, f"{name}: {message}"
        return message

    # Neighbours

    def measure_arrivals(self) -> list[float]:
        """Set a new value in each neighbour's vault. Return the seconds until each Secret has it."""
        with ThreadPoolExecutor(len(self.neighbours)) as pool:
            return list(pool.map(self._measure_arrival, self.neighbours))

    def _measure_arrival(self, space: Namespace) -> float:
        text = f"{space.name}-{next(_numbers)}"
        space.set_secret("a", text)
        began = time.monotonic()

        def read_values() -> dict[str, str]:
            self.assert_running()
            return space.secret_values("s")

        eventually(read_values, lambda found: found == {"k": canary_value(text)}, patience=120)
        return time.monotonic() - began

    def measure_new_namespace(self) -> float:
        """Return the seconds until a namespace with a new identity, vault and connection has its first value."""
        began = time.monotonic()
        space = self._create_neighbour()
        seconds = time.monotonic() - began
        space.remove()
        return seconds

    def run_beside_neighbours(self, *attacks: Attack) -> None:
        """Run attacks in parallel. Check that new values arrive in time in the neighbours and in new namespaces."""
        with ThreadPoolExecutor(len(attacks)) as pool:
            running = [pool.submit(attack) for attack in attacks]
            waits: list[float] = []
            while not waits or not all(each.done() for each in running):
                waits += [*self.measure_arrivals(), self.measure_new_namespace()]
            for each in running:
                each.result()
        assert max(waits) < IN_TIME, f"seconds until new values arrived: {waits}"

    # The closing check

    def assert_unharmed(self) -> None:
        """Check everything that no attack may change."""
        self.assert_running()
        waits = [*self.measure_arrivals(), self.measure_new_namespace()]
        assert max(waits) < IN_TIME, f"seconds until new values arrived: {waits}"
        peak = peak_memory(self.pid)
        assert peak < self._limit, f"{peak / 2**20:.0f} MiB of at most {self._limit / 2**20:.0f} MiB"
        assert self._read_leader() == self._leader, "the leader has changed"
        problems = [
            *self.find_disclosed_values(),
            *self.find_unexpected_objects(),
            *self.find_unexpected_errors(),
            *self.find_unprintable_text(),
        ]
        assert not problems, "\n".join(problems)

    def assert_running(self) -> None:
        """Check that the first process still runs. Waits check it too, so that a crash is not reported as a delay."""
        assert_running(self.controller, self.pid)

    def find_disclosed_values(self) -> Iterator[str]:
        """Yield each place outside its namespace's Secrets that contains a neighbour's value or an unsynced value."""
        values = [canary_value(f"{each.name}-").encode() for each in self.neighbours] + [UNSYNCED_VALUE.encode()]
        responses, self.responses = self.responses, []
        # The responses may contain tokens, because an attacker may request tokens of its own ServiceAccounts.
        yield from (found for found in search_texts(responses, values) if found.startswith("a value"))
        places = [("log", self.controller.log.read_text()), ("metrics", read_metrics(self.controller))]
        stolen = [
            (f"Secret {self.attacked.name}/{name}", "\n".join(self.attacked.secret_values(name).values()))
            for name in self.attacked.list_names("secret")
        ]
        yield from search_texts([*places, *stolen, *objects(self.plane)], values)

    def find_unexpected_errors(self) -> Iterator[str]:
        """Yield each new log line about an internal error. The next attempt can remove the error from the status."""
        lines = self.controller.log.read_text().splitlines()
        for line in lines[self._checked_lines :]:
            if '"message": "unexpected ' in line:
                yield f"the controller met an internal error: {line[:1000]}"
        self._checked_lines = len(lines)

    def find_unexpected_objects(self) -> Iterator[str]:
        """Yield each forbidden creation, change or deletion of an object."""
        after = self._list_foreign_objects()
        for name in self._foreign.keys() | after.keys():
            if self._foreign.get(name) != after.get(name):
                yield f"{name} was created, changed or deleted"
        for name in self._list_leases() ^ self._own_leases:
            yield f"Lease {name} was created or deleted"
        for secret in self._list("/api/v1/secrets"):
            for problem in find_secret_problems(secret):
                yield f"Secret {secret['metadata']['namespace']}/{secret['metadata']['name']}: {problem}"
        for event in self._list("/apis/events.k8s.io/v1/events"):
            if FIELD_MANAGER in event.get("reportingController", "") and (problem := find_event_problem(event)):
                yield f"event {event['metadata']['namespace']}/{event['metadata']['name']}: {problem}"

    def find_unprintable_text(self) -> Iterator[str]:
        """Yield each place with text that is not printable: log, metrics, conditions and events."""
        for number, line in enumerate(self.controller.log.read_text().splitlines()):
            try:
                json.loads(line)
            except ValueError:
                yield f"line {number} of the log is not JSON: {line[:200]!r}"
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

    def run_doctor(self, namespace: str, *hosts: str) -> str:
        """Run `tools/doctor` for a namespace as the cluster's administrator. Return its output.

        It may contact the hosts of the release's cloud and these hosts.
        """
        cloud = make_cloud(self.emulator)
        named = [*(urlsplit(cloud[key]).netloc for key in ("authority", "vaultUrl")), *hosts]
        words = ["--kubeconfig", str(self.plane.kubeconfig), "--namespace", namespace]
        return capture_output(
            lambda: doctor.main([*words, *(word for host in named for word in ("--allow-host", host))])
        )

    def list_called_vaults(self) -> set[str]:
        """Return the names of all vaults that a client has called."""
        return {what.split("/")[0] for what in self.emulator.counters()}

    def count_foreign_calls(self) -> int:
        """Return how many calls the neighbours' vaults have received without their neighbour's token."""
        own = {space.vault: space.client for space in self.neighbours}
        total = 0
        for what, count in self.emulator.counters(by_client=True).items():
            vault, _, _, client = what.split("/")
            if vault in own and client != own[vault]:
                total += count
        return total

    # The cluster's state

    def _list(self, path: str) -> list[dict[str, Any]]:
        status, text = self.plane.request("GET", path)
        assert status == 200, text
        found: list[dict[str, Any]] = decode_nested_json(text)["items"]
        return found

    def _list_foreign_objects(self) -> dict[str, Any]:
        """Return the objects that the attackers must not change, by their names."""
        found = {}
        for secret in self._list("/api/v1/secrets"):
            meta = secret["metadata"]
            if meta["namespace"] in KUBERNETES_NAMESPACES or meta["name"] == "theirs":
                found[f"Secret {meta['namespace']}/{meta['name']}"] = secret
        for space in self.neighbours:
            for kind in ("secretsync", "secretproviderclass", "akvsync", "serviceaccount", "deployment"):
                for item in self._list(KIND_PATHS[kind].format(space.name)):
                    meta = item["metadata"]
                    kept = {key: text for key, text in meta.items() if key not in ("resourceVersion", "managedFields")}
                    found[f"{kind} {space.name}/{meta['name']}"] = {"metadata": kept, "spec": item.get("spec")}
        return found

    def _list_leases(self) -> set[str]:
        return {f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in self._list(_LEASES)}

    def _read_leader(self) -> tuple[str, int]:
        name = self.controller.env["LEASE_NAME"]
        [lease] = [item for item in self._list(_LEASES) if item["metadata"]["name"] == name]
        return lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]


def make_cloud(emulator: Emulator, vault_url: str = "") -> dict[str, str]:
    """Return the emulator as a cloud whose vaults need name resolution, as Azure's vaults do."""
    by_name = emulator.vault_pattern.replace("127.0.0.1", "localhost")
    return {**emulator.cloud, "vaultUrl": vault_url or by_name}


def read_memory_limit(installed: InstalledRelease) -> int:
    """Return the memory limit of the controller's container in bytes."""
    flags = ("--namespace", installed.release, "--output", "json")
    found = json.loads(installed.plane.kubectl("get", "deployment", installed.deployment, *flags))
    text = str(found["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
    return int(text[:-2]) * UNITS[text[-2:]]


def find_secret_problems(secret: Mapping[str, Any]) -> Iterator[str]:
    """Yield each part of a Secret that the controller's account must not write."""
    meta = secret["metadata"]
    written = [
        each["fieldsV1"] for each in meta.get("managedFields", ()) if each["manager"] in (FIELD_MANAGER, "thief")
    ]
    if not written:
        return
    text = json.dumps(written)
    if meta["namespace"] in KUBERNETES_NAMESPACES:
        yield "it is in a namespace of Kubernetes"
    if '"f:finalizers"' in text and meta.get("finalizers"):
        yield f"it has finalizers {meta['finalizers']}"
    if '"f:immutable"' in text and secret.get("immutable"):
        yield "it is immutable"
    own = {field: _select_written(written, field, meta.get(field, {})) for field in ("labels", "annotations")}
    if problem := reserved.find_reserved(meta["name"], own["labels"], own["annotations"]):
        yield f"it has a key that another tool acts on: {problem}"
    owners = meta.get("ownerReferences", [])
    shape = [(each["apiVersion"], each["kind"], each["name"]) for each in owners]
    if shape != [("secret-sync.x-k8s.io/v1alpha1", "SecretSync", meta["name"])]:
        yield f"its owners are {shape}"
    if not MANAGED_LABEL.items() <= meta.get("labels", {}).items():
        yield "it has lost the label of synced Secrets"


def _select_written(entries: Iterable[Mapping[str, Any]], field: str, now: Mapping[str, str]) -> dict[str, str]:
    """Return the labels or annotations that these managed fields contain."""
    keys = {key.removeprefix("f:") for each in entries for key in each.get("f:metadata", {}).get(f"f:{field}", {})}
    return {key: text for key, text in now.items() if key in keys}


def find_event_problem(event: Mapping[str, Any]) -> str:
    """Return why the controller must not have written an event, or an empty string."""
    regarding = event["regarding"]
    if regarding["kind"] not in ("SecretSync", "AKVSync"):
        return f"it is about a {regarding['kind']}"
    if regarding["namespace"] != event["metadata"]["namespace"]:
        return f"it is about an object of {regarding['namespace']}"
    return ""


def capture_output(program: Callable[[], object]) -> str:
    """Run a program. Return its output on stdout and stderr."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        program()
    return text.getvalue()


def make_paced_attack(per_second: float, seconds: float, attack: Callable[[int], object]) -> Attack:
    """Return an attack that calls a function with 0, 1, 2, … at this rate for this number of seconds."""

    def run() -> None:
        pause, began = threading.Event(), time.monotonic()
        for number in range(int(per_second * seconds)):
            attack(number)
            pause.wait(max(0.0, began + (number + 1) / per_second - time.monotonic()))
            if time.monotonic() - began > seconds:
                return

    return run
