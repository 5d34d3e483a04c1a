"""Test that the values of one SecretSync cannot fill the memory of all."""

import json
import tracemalloc

import msgspec
import pytest

from controller.api.meta import ObjectMeta
from controller.api.secretproviderclass import SecretProviderClass
from controller.domain.decode_values import MAX_DECODED
from controller.domain.values import VaultValue
from controller.errors import InputError
from controller.secretsync.sync_resolver import ResolvedSync
from controller.secretsync.tasks import Fetch
from tests.support.builders import make_secret_meta, make_sync, make_value
from tests.support.certificates import issue_certificate
from tests.support.scripted_api_server import error_response
from tests.unit.secretsync.syncer.harness import ABSENT, SyncerHarness, make_class, metadata_response

ROOT = issue_certificate("root", ca=True)
LEAF = issue_certificate("web", ROOT)
# A PEM whose certificates are out of order, so that each key gets a text of its own.
PEM = (LEAF.key_pem + ROOT.pem + LEAF.pem).ljust(24_000, "\n")
PROPERTIES = json.dumps({f"p{number:03}": "" for number in range(500)})


def make_expanded_class(count: int) -> SecretProviderClass:
    items = [f"objectName: s{number}\nobjectExpand: 'true'" for number in range(count)]
    return make_class(objects=f"array: {json.dumps(items)}")


def make_pem_value() -> VaultValue:
    return msgspec.structs.replace(make_value(PEM), content_type="application/x-pem-file", of_certificate=True)


@pytest.mark.parametrize(
    ("names", "source", "value", "message"),
    [
        pytest.param(
            ["web"] * 2_000, make_class(objects="array: ['objectName: web']"), make_pem_value(),
            "more than 2 MiB together", id="keys of one value",
        ),
        pytest.param(
            [f"s{number}" for number in range(400)], make_expanded_class(400), make_value(PROPERTIES),
            "more than 4096 keys", id="properties of many values",
        ),
    ],
)  # fmt: skip
async def test_values_are_decoded_only_until_a_secret_cannot_have_them(
    harness: SyncerHarness, names: list[str], source: SecretProviderClass, value: VaultValue, message: str
) -> None:
    harness.vault.values |= dict.fromkeys(names, value)
    keys = {f"k{number}": name for number, name in enumerate(names)}
    tracemalloc.start()
    error = await harness.sync_error(ABSENT, wanted=make_sync(keys), source=source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message in error.message
    assert error.message.endswith("split the SecretSync")
    assert peak < 6 * MAX_DECODED
    assert harness.requests == ["probe"]


@pytest.mark.parametrize("text", ["must have at most 1048576 bytes", "may not be more than 1048576 bytes"])
async def test_secret_that_one_changed_value_makes_too_large_is_reported_as_such(
    harness: SyncerHarness, text: str
) -> None:
    """The other values were not fetched, so only the API server knows the size."""
    held = metadata_response(make_secret_meta())
    await harness.sync(ABSENT, held)
    harness.server.add_responses(
        held, error_response(422, f'Secret "shop" is invalid: data: Too long: {text}'), metadata_response(ObjectMeta())
    )
    resolved = await harness.resolver.resolve_sync(make_sync(), make_class())
    assert isinstance(resolved, ResolvedSync)
    harness.vault.values["user"] = make_value("longer", "v2")
    with pytest.raises(InputError, match=r"^Secret shop would have more than 1 MiB .*; split the SecretSync$"):
        await harness.syncer.sync(make_sync(), resolved, harness.written, Fetch(0.0, frozenset({"user"})))
    assert harness.body(-2)["data"].keys() == {"user"}
