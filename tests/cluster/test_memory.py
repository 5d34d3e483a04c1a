"""Count the copies of synced values in the controller's memory, which root on the node can read in /proc.

The controller keeps no value. The tests find copies only in memory that libraries have freed and that nothing has
overwritten yet.
"""

import itertools
import secrets
import time
from collections.abc import Mapping

import pytest

from controller.domain.decode_values import PEM, PFX
from tests.support.certificates import encode_pem_bundle, encode_pfx, generate_key, issue_certificate
from tests.support.cluster.harness import eventually
from tests.support.cluster.namespace import Namespace, past_time
from tests.support.cluster.process_memory import count_copies, key_fragment
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.long

TEXTS = 16
KEYS = 8
OTHERS = 100
# The tests wait longer than the two seconds for which the controller keeps an answer for other SecretSyncs.
SHARED = 4.0
# If the controller kept the values, each of the 16 values would have a copy even after a sync of other values. In
# measurements, 1 to 15 values had a copy, and 2 to 6 after a sync of other values.
MAX_AFTER_OTHERS = TEXTS // 2
# The parser of private keys frees its copies without overwriting them: 2 or 3 for each key.
MAX_OF_KEYS = 4 * KEYS


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": "3600", "DRIFT_INTERVAL": "3600", "LEASE_NAME": ""}


def sync_values(space: Namespace, values: Mapping[str, tuple[str, str]], **secret_object: str) -> None:
    """Sync each value (a text and its content type) into a Secret with its name. Wait until the Secrets exist."""
    emulator = space.installed.emulator
    with past_time(emulator):
        for name, (text, kind) in values.items():
            emulator.set_secret(space.vault, name, text, content_type=kind or None)
    first = next(iter(values))
    keys = ("tls.crt", "tls.key") if secret_object else ()
    syncs = [
        space.sync(
            name,
            {key: f"{name}/{key}" for key in keys} or {"k": name},
            secretProviderClassName=first,
            secretObject=secret_object,
        )
        for name in values
    ]
    space.apply(space.provider_class(*values, name=first), *syncs)
    eventually(lambda: set(values) - set(space.list_names("secret")), lambda missing: not missing)


def count_in_memory(controller: PodProcess, space: Namespace, values: Mapping[str, bytes]) -> dict[str, int]:
    """Return how often each value is in the controller's memory. Check that this search finds the vault's name."""
    found = count_copies(controller.pid, {**values, "the vault's name": space.vault.encode()})
    assert found.pop("the vault's name") > 0  # the controller keeps it while there is a SecretProviderClass with it
    return found


def test_synced_values_are_not_kept_in_memory(space: Namespace, controller: PodProcess) -> None:
    marks = {f"text-{number}": secrets.token_hex(20) for number in range(TEXTS)}
    # Short and long values are allocated in different places.
    padding = {name: "x" * 3000 * (number % 2) for number, name in enumerate(marks)}
    sync_values(space, {name: (padding[name] + mark + padding[name], "") for name, mark in marks.items()})
    time.sleep(SHARED)
    rounds = itertools.count()

    def left_after_others() -> set[str]:
        others = (f"other-{next(rounds)}-{number}" for number in range(OTHERS))
        sync_values(space, {name: ("x" * (40 + 6000 * (number % 2)), "") for number, name in enumerate(others)})
        found = count_in_memory(controller, space, {name: mark.encode() for name, mark in marks.items()})
        return {name for name, count in found.items() if count}

    # Other values overwrite freed memory after some time. Kept values would remain.
    eventually(left_after_others, lambda found: len(found) <= MAX_AFTER_OTHERS, patience=60)


def test_only_the_parsers_copies_of_a_private_key_remain(space: Namespace, controller: PodProcess) -> None:
    issuer = issue_certificate("issuer", ca=True)
    leaves = {f"key-{number}": issue_certificate("web", issuer, key=generate_key("RSA")) for number in range(KEYS)}
    files = {
        name: (encode_pfx(leaf.key, [leaf, issuer]), PFX)
        if number % 2
        else (encode_pem_bundle(leaf, issuer).decode(), PEM)
        for number, (name, leaf) in enumerate(leaves.items())
    }
    sync_values(space, files, type="kubernetes.io/tls")
    time.sleep(SHARED)
    found = count_in_memory(controller, space, {name: key_fragment(leaf) for name, leaf in leaves.items()})
    assert sum(found.values()) <= MAX_OF_KEYS, found
