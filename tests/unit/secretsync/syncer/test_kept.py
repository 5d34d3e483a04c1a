"""Objects that are not read any more: the Secret keeps the value that it has."""

from controller.api.conditions import Reason
from controller.domain.status import Synced
from tests.support.builders import make_secret_meta
from tests.unit.secretsync.syncer.stage import ABSENT, Scene, sent, source

KEPT = source(objects="array: ['objectName: user', \"objectName: pass\\nobjectKeep: 'true'\"]")


async def test_a_kept_object_is_not_read_and_its_key_stays(scene: Scene) -> None:
    outcome = await scene.sync(sent(make_secret_meta()), sent(make_secret_meta(), "43"), of=KEPT)
    assert scene.vault.read_names == ["user"]
    assert scene.body()["data"].keys() == {"user"}
    assert isinstance(outcome, Synced)
    assert "1 key " in outcome.message
    assert outcome.message.endswith("Key Vault shop-vault; 1 key kept, of objects that are not read any more")


async def test_a_kept_object_whose_value_is_lost_is_reported_and_not_read(scene: Scene) -> None:
    outcome = await scene.sync(ABSENT, sent(make_secret_meta(["user"])), of=KEPT)
    assert scene.vault.read_names == ["user"]
    assert outcome.reason == Reason.PARTIAL
    assert "the Secret lacks its last value" in outcome.message
