"""The actions of a soak run: rotations, faults, restarts, and edits by users."""

import base64
import json
import random
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from tests.soak.state import RETRY_TIMEOUT_SECONDS, SECRET_KEY, ObjectKey, SoakState, secretsync
from tests.soak.steps import Step
from tests.support.cluster.harness import eventually
from tools.local_cluster.errors import ClusterError

# The arguments of `Emulator.fail` for each fault of a vault.
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
# The value that a user writes into a Secret. The controller replaces it.
USER_VALUE = "written by a user"
RESTART_TIMEOUT_SECONDS = 60.0


class SoakActions:
    """Perform the steps of a run. Each action makes its choices with a random source of its own.

    So the choices of an action depend only on the seed of its step, and not on the steps before it.
    """

    def __init__(self, state: SoakState) -> None:
        self._state = state
        self._controller = state.controller
        self._emulator = state.installed.emulator
        self._plane = state.installed.plane
        self.counts: Counter[str] = Counter()
        """How many times each action was performed."""

    def perform(self, step: Step) -> None:
        """Perform the action of a step."""
        self.counts[step.action] += 1
        getattr(self, step.action)(random.Random(step.seed))

    def rotate_objects(self, rng: random.Random) -> None:
        """Set a new version of up to 10 vault objects."""
        keys = self._state.keys
        for key in rng.sample(keys, min(len(keys), rng.randint(1, 10))):
            self._state.set_new_version(key)

    def break_vault(self, rng: random.Random) -> None:
        """Let a vault fail for up to 15 s, and set new versions of three of its objects during the failure."""
        namespace, fault = rng.choice(self._state.namespaces), rng.choice(VAULT_FAULTS)
        self._emulator.fail(where=namespace.vault, **fault)
        names = self._state.names
        for name in rng.sample(names, min(len(names), 3)):
            self._state.set_new_version(ObjectKey(namespace.name, name))
        self._state.watch_until(time.monotonic() + rng.uniform(1, 15))
        self._emulator.clear_faults()

    def break_entra(self, rng: random.Random) -> None:
        """Let Entra fail for up to 10 s. The vaults refuse the tokens that Entra issued before."""
        self._emulator.roll_signing_key()
        self._emulator.fail(rng.choice([429, 500, 503]), where="entra")
        self._state.watch_until(time.monotonic() + rng.uniform(1, 10))
        self._emulator.clear_faults()

    def replace_signing_key(self, _rng: random.Random) -> None:
        """Replace Entra's signing key. The vaults refuse all tokens, so the controller needs new ones."""
        self._emulator.roll_signing_key()

    def overwrite_secret(self, rng: random.Random) -> None:
        """Overwrite the value of a Secret as a user."""
        key = rng.choice(self._state.keys)
        self._state.allow_value(key, USER_VALUE)
        patch = json.dumps({"data": {SECRET_KEY: base64.b64encode(USER_VALUE.encode()).decode()}})
        # An earlier action may have deleted the Secret, and the controller may not have recreated it yet.
        with suppress(ClusterError):
            self._state.namespace_of(key).kubectl("patch", "secret", key.name, "--type=merge", "--patch", patch)

    def delete_secret(self, rng: random.Random) -> None:
        """Delete a Secret as a user."""
        key = rng.choice(self._state.keys)
        self._state.allow_deletion(key)
        self._state.namespace_of(key).kubectl("delete", "secret", key.name, "--ignore-not-found", "--wait=false")

    def replace_secretsync(self, rng: random.Random) -> None:
        """Delete a SecretSync, and create it again at once. The garbage collector deletes the old Secret."""
        key = rng.choice(self._state.keys)
        namespace = self._state.namespace_of(key)
        self._state.allow_deletion(key)
        old = self._state.read_uid(key)
        namespace.kubectl("delete", "secretsync", key.name)
        namespace.apply(secretsync(namespace, key.name))
        eventually(lambda: self._state.read_uid(key), lambda uid: uid != old or not old, RETRY_TIMEOUT_SECONDS)

    def edit_class(self, rng: random.Random) -> None:
        """Edit a SecretProviderClass, so that the controller syncs all its SecretSyncs."""
        patch = json.dumps({"spec": {"parameters": {"edited": str(rng.getrandbits(32))}}})
        namespace = rng.choice(self._state.namespaces)
        namespace.kubectl("patch", "secretproviderclass", "shop", "--type=merge", "--patch", patch)

    def restart_controller(self, _rng: random.Random) -> None:
        """Stop the controller, and start it again."""
        assert self._controller.stop() == 0
        self._start_controller()

    def kill_controller(self, _rng: random.Random) -> None:
        """Kill the controller, and start it again."""
        self._controller.kill()
        self._start_controller()

    def restart_apiserver(self, rng: random.Random) -> None:
        """Stop the API server for up to 5 s, which ends all watches.

        The garbage collector's watch ends, too. It then misses the replacement of a SecretSync and does not delete the
        old Secret. A restarted garbage collector lists all objects again and finds the Secret.
        """
        self._plane.stop_apiserver()
        time.sleep(rng.uniform(0, 5))
        self._plane.start_apiserver()
        self._plane.restart_controller_manager()

    def _start_controller(self) -> None:
        self._controller.start()
        self._controller.wait_ready(RESTART_TIMEOUT_SECONDS)
        self._state.samples.clear()  # the samples of the old process say nothing about the growth of the new one
