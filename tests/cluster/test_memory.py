"""Count the copies of synced values in the controller's memory, in /proc as root on the node can do.

Nothing keeps a value. Values that the test finds are in memory that libraries have freed and not used again yet.
"""

import itertools
import secrets
import time
from collections.abc import Mapping

import pytest

from controller.domain.decode_values import PEM, PFX
from tests.support.certificates import encode_pem_bundle, encode_pfx, generate_key, issue_certificate
from tests.support.cluster.harness import eventually
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.process_memory import count_copies, key_fragment
from tools.pods.pod_process import PodProcess

TEXTS = 16
KEYS = 8
OTHERS = 100
# An answer is kept for two seconds, for others who ask the same.
SHARED = 4.0
# Of each that is kept there would be a copy for certain, whatever is synced after it. Counted on this program: copies
# of 1 to 15 of the sixteen, and of 2 to 6 once others were synced.
MAX_AFTER_OTHERS = TEXTS // 2
# What parses a private key frees it as it was parsed: 2 or 3 of each.
MAX_OF_KEYS = 4 * KEYS


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": "3600", "DRIFT_INTERVAL": "3600", "LEASE_NAME": ""}


def synced(space: Namespace, values: Mapping[str, tuple[str, str]], **secret_object: str) -> None:
    """Each of these values, text and contentType, is in a Secret of its name."""
    for name, (text, kind) in values.items():
        space.installed.emulator.set_secret(space.vault, name, text, content_type=kind or None)
    time.sleep(2)  # a value fetched sooner after its setting is fetched again
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


def test_synced_values_are_not_kept_in_memory(space: Namespace, controller: PodProcess) -> None:
    marks = {f"text-{number}": secrets.token_hex(20) for number in range(TEXTS)}
    # Short ones and long ones are kept in different places.
    beside = {name: "x" * 3000 * (number % 2) for number, name in enumerate(marks)}
    synced(space, {name: (beside[name] + mark + beside[name], "") for name, mark in marks.items()})
    time.sleep(SHARED)
    rounds = itertools.count()

    def left_after_others() -> set[str]:
        others = (f"other-{next(rounds)}-{number}" for number in range(OTHERS))
        synced(space, {name: ("x" * (40 + 6000 * (number % 2)), "") for number, name in enumerate(others)})
        found = count_copies(controller.pid, {name: mark.encode() for name, mark in marks.items()})
        return {name for name, count in found.items() if count}

    # Freed memory is used again sooner or later, but kept values would stay.
    eventually(left_after_others, lambda found: len(found) <= MAX_AFTER_OTHERS, patience=60)


def test_of_a_private_key_the_parsers_copies_stay(space: Namespace, controller: PodProcess) -> None:
    issuer = issue_certificate("issuer", ca=True)
    leaves = {f"key-{number}": issue_certificate("web", issuer, key=generate_key("RSA")) for number in range(KEYS)}
    files = {
        name: (encode_pfx(leaf.key, [leaf, issuer]), PFX)
        if number % 2
        else (encode_pem_bundle(leaf, issuer).decode(), PEM)
        for number, (name, leaf) in enumerate(leaves.items())
    }
    synced(space, files, type="kubernetes.io/tls")
    time.sleep(SHARED)
    found = count_copies(controller.pid, {name: key_fragment(leaf) for name, leaf in leaves.items()})
    assert sum(found.values()) <= MAX_OF_KEYS, found
