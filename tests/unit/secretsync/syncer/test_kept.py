"""Test that the controller does not read kept objects, and that the Secret keeps their last values."""

from controller.api.conditions import Reason
from controller.domain.status import Synced
from tests.support.builders import make_secret_meta
from tests.unit.secretsync.syncer.harness import ABSENT, SyncerHarness, make_class, metadata_response

KEPT = make_class(objects="array: ['objectName: user', \"objectName: pass\\nobjectKeep: 'true'\"]")


async def test_kept_object_is_not_read_and_its_key_stays(harness: SyncerHarness) -> None:
    outcome = await harness.sync(
        metadata_response(make_secret_meta()), metadata_response(make_secret_meta(), "43"), source=KEPT
    )
    assert harness.vault.read_names == ["user"]
    assert harness.body()["data"].keys() == {"user"}
    assert isinstance(outcome, Synced)
    assert "1 key " in outcome.message
    assert outcome.message.endswith("Key Vault shop-vault; 1 key kept, of objects that are not read any more")


async def test_kept_object_whose_value_is_lost_is_reported_and_not_read(harness: SyncerHarness) -> None:
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta(["user"])), source=KEPT)
    assert harness.vault.read_names == ["user"]
    assert outcome.reason == Reason.PARTIAL
    assert "the Secret lacks its last value" in outcome.message
