"""One SecretSync from what is wanted to what is there: a scripted API server, a stand-in for the vault."""

import base64
import json
import traceback
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from controller import errors
from controller.accounts import assertions
from controller.api.conditions import Reason
from controller.api.meta import CLIENT_ID, TENANT_ID, ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassSpec
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync, SecretSyncStatus
from controller.errors import ControllerError, ObjectError, OwnershipError, ProviderError, Retry
from controller.fetched import Fetched
from controller.identity import Identity
from controller.objects import VersionOf
from controller.plan import mark
from controller.refusals import throttled
from controller.settings import BUILT_IN_CLOUDS, FOREIGN_SECRET, TOKEN_AUDIENCE, Settings
from controller.status import Outcome, next_status
from controller.sync import Again, Ask, Class, Syncer, Written
from controller.telemetry import Metrics
from controller.vaults import Vaults
from tests.unit.api_server import Answer, ApiServer, connected, refusal
from tests.unit.issuing import issue, private_pem
from tests.unit.objects_of import hand, owner, provider_class, secret, sync, value

CANARY = "canary-51c0"
ABSENT = refusal(404, "secrets not found")


def source(**parameters: str) -> SecretProviderClass:
    """A class with the objects that tests ask for."""
    objects = "array: ['objectName: user', 'objectName: pass']"
    base = {"keyvaultName": "shop-vault", "clientID": "client-1", "tenantID": "tenant-1", "objects": objects}
    spec = SecretProviderClassSpec(provider="azure", parameters=base | parameters)
    return msgspec.structs.replace(provider_class(), spec=spec)


def sent(meta: ObjectMeta, version: str = "42", **metadata: Any) -> Answer:
    """The Secret's metadata as the API server answers."""
    body = msgspec.to_builtins(meta) | {"resourceVersion": version} | metadata
    return Answer({"kind": "PartialObjectMetadata", "metadata": body})


class Scene:
    """A syncer, the API server it writes to, and what stands in for the vaults."""

    def __init__(self, server: ApiServer, syncer: Syncer, vault: "VaultStandIn") -> None:
        self.server = server
        self.syncer = syncer
        self.vault = vault
        self.written = Written(untried=False)

    async def sync(
        self,
        *answers: Answer,
        wanted: SecretSync | None = None,
        of: Class = None,
        stale: frozenset[str] | None = None,
    ) -> Outcome:
        """Syncs while the API server gives these answers, all of them."""
        self.server.will_answer(*answers)
        reading = await self.syncer.reading(wanted or sync(), of or source())
        outcome = await self.syncer.sync(wanted or sync(), reading, self.written, Ask(0.0, stale))
        assert not self.server.script
        return outcome

    async def fails(self, *answers: Answer, wanted: SecretSync | None = None) -> ControllerError:
        with pytest.raises(ControllerError) as caught:
            await self.sync(*answers, wanted=wanted)
        return caught.value

    @property
    def requests(self) -> list[str]:
        """Method and body's data of each request, `look` for a patch that changes nothing."""
        return ["look" if asked.body == b"{}" else asked.method for asked in self.server.asked]

    def body(self, number: int = -1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.asked[number].body)
        return found


class VaultStandIn:
    """Stands for `Vaults` and `VaultReader`."""

    def __init__(self) -> None:
        self.holds: dict[str, Fetched | ControllerError] = {"user": value("me"), "pass": value(CANARY)}
        self.asked: list[tuple[Identity, str, str]] = []
        self.read_names: list[str] = []
        self.first: list[bool] = []

    def reader(self, identity: Identity, cloud: str, vault: str) -> "VaultStandIn":
        self.asked.append((identity, cloud, vault))
        return self

    async def read(
        self, wanted: Iterable[VersionOf], *, since: float, first: bool
    ) -> Mapping[VersionOf, Fetched | ControllerError]:
        self.read_names = sorted(version.object.name for version in wanted)
        self.first.append(first)
        return {version: self.holds[version.object.name] for version in wanted}


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with connected() as (server, kube):
        vault = VaultStandIn()
        yield Scene(server, Syncer(kube, Settings(), BUILT_IN_CLOUDS, cast("Vaults", vault), Metrics()), vault)


# Writing


async def test_a_tls_secret_takes_both_halves_out_of_one_secret(scene: Scene) -> None:
    leaf = issue("web", issue("ca", ca=True), start=datetime(2020, 1, 1, tzinfo=UTC), days=36_500)
    scene.vault.holds["user"] = value(leaf.key_pem + leaf.pem)
    wanted = sync({"tls.crt": "user", "tls.key": "user"}, type="kubernetes.io/tls")
    outcome = await scene.sync(ABSENT, sent(secret()), wanted=wanted)
    data = {key: base64.b64decode(text).decode() for key, text in scene.body()["data"].items()}
    assert data == {"tls.crt": leaf.pem, "tls.key": private_pem(leaf.key, PrivateFormat.TraditionalOpenSSL)}
    assert outcome.reason == Reason.WRITTEN
    assert outcome.warnings == (
        "secret user in Key Vault shop-vault lacks the certificate of an issuer; import it again with its whole chain",
    )
    assert outcome.objects
    assert {item.object for item in outcome.objects} == {"secret/user"}


async def test_what_expired_is_synced_with_a_warning_even_where_another_key_fails(scene: Scene) -> None:
    scene.vault.holds["user"] = msgspec.structs.replace(value("me"), expires=datetime(2020, 1, 1, tzinfo=UTC))
    scene.vault.holds["pass"] = ObjectError("secret pass is disabled")
    outcome = await scene.sync(ABSENT, sent(secret(["user"])))
    assert outcome.reason == Reason.PARTIAL
    assert outcome.warnings
    assert "secret user in Key Vault shop-vault expired at 2020-01-01T00:00:00Z" in outcome.warnings[0]


async def test_without_anything_odd_there_is_nothing_to_warn_of(scene: Scene) -> None:
    assert (await scene.sync(ABSENT, sent(secret()))).warnings == ()


async def test_the_first_attempt_creates_without_a_look(scene: Scene) -> None:
    scene.written = Written()
    await scene.sync(sent(secret()))
    assert scene.requests == ["POST"]
    await scene.sync(sent(secret()))
    assert scene.requests == ["POST", "look"]


async def test_what_is_in_the_way_of_the_first_attempt_is_looked_at_in_the_second(scene: Scene) -> None:
    scene.written = Written()
    with pytest.raises(Again):
        await scene.sync(refusal(409, "secrets already exists"))
    scene.server.asked.clear()
    assert isinstance(await scene.fails(sent(secret(owners=[]))), OwnershipError)
    assert scene.requests == ["look"]


async def test_an_absent_secret_is_created_from_the_vault_that_the_class_names(scene: Scene) -> None:
    outcome = await scene.sync(ABSENT, sent(secret()))
    assert scene.requests == ["look", "POST"]
    assert set(scene.body()["data"]) == {"user", "pass"}
    assert scene.vault.asked == [(Identity("team", "robot", "client-1", "tenant-1"), "AzurePublicCloud", "shop-vault")]
    assert (outcome.reason, outcome.ready, outcome.equal, outcome.exists) == (Reason.WRITTEN, True, True, True)
    assert outcome.message == "2 keys written from Key Vault shop-vault"
    assert outcome.objects
    assert [item.target_key for item in outcome.objects] == ["user", "pass"]


async def test_what_is_equal_is_not_written_again(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(secret()))
    outcome = await scene.sync(sent(secret()))
    assert scene.requests == ["look", "POST", "look"]
    assert (outcome.reason, outcome.message) == (Reason.UP_TO_DATE, "2 keys equal to Key Vault shop-vault")


async def test_only_a_rotated_value_is_sent(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(secret()))
    scene.vault.holds["user"] = value("new", version="v2")
    outcome = await scene.sync(sent(secret()), sent(secret(), "43"))
    assert set(scene.body()["data"]) == {"user"}
    assert scene.body()["metadata"] == {"uid": "uid-of-the-secret", "resourceVersion": "42"}
    assert outcome.reason == Reason.WRITTEN


@pytest.mark.parametrize(("version", "reason"), [("42", Reason.UP_TO_DATE), ("43", Reason.WRITTEN)])
async def test_after_a_restart_all_is_sent_and_the_api_server_compares(
    scene: Scene, version: str, reason: Reason
) -> None:
    outcome = await scene.sync(sent(secret()), sent(secret(), version))
    assert set(scene.body()["data"]) == {"user", "pass"}
    assert outcome.reason == reason


async def test_a_key_that_left_and_came_back_is_written_again(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(secret()))
    await scene.sync(sent(secret()), sent(secret(["user"]), "43"), wanted=sync(["user"]))
    assert scene.body()["data"] == {"pass": None}
    await scene.sync(sent(secret(["user"]), "43"), sent(secret(), "44"))
    assert set(scene.body()["data"]) == {"pass"}


async def test_after_somebody_elses_hand_all_is_sent(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(secret()))
    edited = secret(hands=[*secret().managed_fields, hand(["user"], manager="kubectl", time="2030-01-01T00:09:00Z")])
    await scene.sync(sent(edited), sent(secret(), "43"))
    assert set(scene.body()["data"]) == {"user", "pass"}


async def test_what_could_not_be_fetched_keeps_its_last_value(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(secret()))
    scene.vault.holds = {"user": value("new"), "pass": ProviderError("throttled", retry_after=9)}
    outcome = await scene.sync(sent(secret()), sent(secret(), "43"))
    assert set(scene.body()["data"]) == {"user"}
    assert (outcome.reason, outcome.ready, outcome.equal, outcome.exists) == (Reason.PARTIAL, False, False, True)
    assert outcome.retry_after == 9
    assert [item["status"] for item in json.loads(outcome.message)] == ["failed", "synced"]


async def test_what_a_busy_vault_put_off_is_all_that_is_left_and_comes_first(scene: Scene) -> None:
    scene.vault.holds["pass"] = throttled("shop", 4)
    outcome = await scene.sync(ABSENT, sent(secret(["user"])))
    assert (outcome.reason, outcome.left) == (Reason.PARTIAL, frozenset({"pass"}))
    assert (outcome.retry, outcome.retry_after) == (Retry.TURN, 4)
    scene.vault.holds["pass"] = value(CANARY)
    status = next_status(sync().metadata, SecretSyncStatus(), provider_class(), outcome, datetime.now(UTC))
    outcome = await scene.sync(
        sent(secret(["user"])), sent(secret(), "43"), wanted=sync(status=status), stale=outcome.left
    )
    assert scene.vault.read_names == ["pass"]
    assert set(scene.body()["data"]) == {"pass"}
    assert outcome.ready
    # … and a refresh of what is there does not.
    status = next_status(sync().metadata, status, provider_class(), outcome, datetime.now(UTC))
    await scene.sync(sent(secret(), "43"), wanted=sync(status=status))
    assert scene.vault.first == [True, True, False]


async def test_nothing_is_blanked_when_nothing_can_be_fetched(scene: Scene) -> None:
    scene.vault.holds = dict.fromkeys(("user", "pass"), ObjectError("gone"))
    assert (await scene.fails(sent(secret()))).message == "gone"
    assert scene.requests == ["look"]


# Whose Secret


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(sent(secret(owners=[])), id="as its metadata show"),
        pytest.param(
            refusal(422, f"ValidatingAdmissionPolicy 'x' denied request: {FOREIGN_SECRET}: …"), id="by policy"
        ),
    ],
)
async def test_somebody_elses_secret_costs_no_vault_call(scene: Scene, answer: Answer) -> None:
    error = await scene.fails(answer)
    assert error.reason == Reason.LABEL_ERROR
    assert error.retry is Retry.OBSTACLE
    assert scene.requests == ["look"]
    assert not scene.vault.asked


async def test_an_earlier_ones_secret_is_waited_for(scene: Scene) -> None:
    with pytest.raises(Again) as caught:
        await scene.sync(sent(secret(owners=[owner(uid="earlier")])))
    assert caught.value.seconds <= 2
    assert "shop" in caught.value.obstacle
    assert not scene.vault.asked


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([ABSENT, refusal(409)], id="somebody created it"),
        pytest.param([sent(secret()), refusal(409)], id="somebody changed it"),
        pytest.param([sent(secret()), refusal(404)], id="somebody deleted it"),
    ],
)
async def test_where_somebody_was_faster_it_is_looked_at_again(scene: Scene, answers: list[Answer]) -> None:
    with pytest.raises(Again) as caught:
        await scene.sync(*answers)
    assert not caught.value.obstacle


@pytest.mark.parametrize(
    ("message", "reason", "retry", "words"),
    [
        (
            "data: Forbidden: field is immutable when `immutable` is set",
            Reason.SYNC_FAILED,
            Retry.OBSTACLE,
            ["Secret shop is marked immutable", "delete it"],
        ),
        (
            'type: Invalid value: "Opaque": field is immutable',
            Reason.INPUT_INVALID,
            Retry.OBSTACLE,
            ["another type than Opaque", "delete it"],
        ),
        ("exceeded quota: x", Reason.SYNC_FAILED, Retry.TIME, ["exceeded quota"]),
        ("ValidatingAdmissionPolicy: type", Reason.POLICY_REFUSED, Retry.TIME, ["type"]),
    ],
)
async def test_what_the_api_server_refuses(
    scene: Scene, message: str, reason: Reason, retry: Retry, words: list[str]
) -> None:
    error = await scene.fails(sent(secret()), refusal(422, message))
    assert (error.reason, error.retry) == (reason, retry)
    for word in words:
        assert word in error.message
    assert CANARY not in "".join(traceback.format_exception(error))


# What is wrong before anything is asked


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (Unreadable(ObjectMeta(), "Expected `object`"), ["SecretProviderClass class", "Expected `object`"]),
        (source(objects="array: x"), ["SecretProviderClass class", "array:"]),
        (source(cloudName="Mars"), ["'Mars' is not one of the administrator's", "AzurePublicCloud"]),
    ],
)
async def test_a_class_that_cannot_be_used(scene: Scene, of: Class, words: list[str]) -> None:
    depths = set()
    for _ in range(5):
        with pytest.raises(errors.ClassError) as caught:
            await scene.sync(of=of)
        depths.add(len(traceback.extract_tb(caught.value.__traceback__)))
        for word in words:
            assert word in caught.value.message
    assert len(depths) == 1  # an error that is kept must not gather frames
    assert not scene.server.asked


async def test_a_missing_class_is_named(scene: Scene) -> None:
    with pytest.raises(errors.ClassError, match="no SecretProviderClass class in namespace team; create it"):
        await scene.syncer.reading(sync(), None)


async def test_an_edited_class_is_read_again(scene: Scene) -> None:
    with pytest.raises(errors.ClassError):
        await scene.sync(of=source(objects="array: x"))
    meta = msgspec.structs.replace(source().metadata, generation=2)
    await scene.sync(ABSENT, sent(secret()), of=msgspec.structs.replace(source(), metadata=meta))


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (sync({"a/b": "user"}), "targetKey a/b"),
        (sync({"a": "nothing"}), "sourcePath nothing"),
        (sync({"a": "user/0"}), "sourcePath user/0"),
        (sync(["user"], type="kubernetes.io/tls"), "needs the key tls.crt"),
    ],
)
async def test_a_mistake_in_the_secretsync_costs_no_call(scene: Scene, wanted: SecretSync, word: str) -> None:
    error = await scene.fails(wanted=wanted)
    assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.EDIT)
    assert word in error.message
    assert not scene.server.asked
    assert not scene.vault.asked


# Who reads the vault, where the class does not say


SELF = {"clientID": "", "tenantID": ""}


def account(**annotations: str) -> Answer:
    return Answer({"metadata": {"name": "robot", "annotations": annotations}})


ACCOUNT = account(**{CLIENT_ID: "client-2", TENANT_ID: " tenant-2 "})


@pytest.fixture
async def trusting() -> AsyncIterator[Scene]:
    async with connected() as (server, kube):
        vault, settings = VaultStandIn(), Settings(identity_from_service_account=True, shortest_refresh_interval=60)
        yield Scene(server, Syncer(kube, settings, BUILT_IN_CLOUDS, cast("Vaults", vault), Metrics()), vault)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (SELF, Identity("team", "robot", "client-2", "tenant-2")),
        ({"clientID": ""}, Identity("team", "robot", "client-2", "tenant-1")),
        ({"tenantID": ""}, Identity("team", "robot", "client-1", "tenant-2")),
    ],
)
async def test_the_service_account_tells_what_the_class_leaves_out(
    trusting: Scene, given: dict[str, str], expected: Identity
) -> None:
    await trusting.sync(ACCOUNT, ABSENT, sent(secret()), of=source(**given))
    assert [who for who, *_ in trusting.vault.asked] == [expected]
    assert trusting.server.asked[0].path == "/api/v1/namespaces/team/serviceaccounts/robot"


async def test_a_class_that_says_it_all_asks_no_service_account(trusting: Scene) -> None:
    await trusting.sync(ABSENT, sent(secret()))
    assert trusting.vault.asked[0][0].client_id == "client-1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer({"metadata": {"name": "robot"}}),
            f"annotation {CLIENT_ID} of ServiceAccount robot is missing: correct",
        ),
        (
            Answer({"metadata": {"name": "robot", "annotations": {CLIENT_ID: "a/b"}}}),
            "is 'a/b': correct it, or set the",
        ),
        (refusal(404), "there is no ServiceAccount robot in namespace team; create it"),
    ],
)
async def test_a_service_account_that_does_not_tell(trusting: Scene, answer: Answer, words: str) -> None:
    with pytest.raises(ControllerError) as caught:
        await trusting.sync(answer, of=source(**SELF))
    assert words in caught.value.message
    assert caught.value.retry is Retry.TIME  # nobody watches ServiceAccounts


async def test_unless_it_may_the_class_must_say_it_all(scene: Scene) -> None:
    with pytest.raises(ControllerError, match="parameter clientID is missing"):
        await scene.sync(of=source(**SELF))
    assert not scene.server.asked


async def test_an_interval_that_is_no_number_is_told(trusting: Scene, scene: Scene) -> None:
    wanted = sync()
    meta = msgspec.structs.replace(wanted.metadata, annotations={REFRESH_INTERVAL: "soon"})
    wanted = msgspec.structs.replace(wanted, metadata=meta)
    error = await trusting.fails(wanted=wanted)
    assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.EDIT)
    assert "'soon': write a number of seconds" in error.message
    # Where no SecretSync may choose, the annotation is nobody's business.
    assert (await scene.sync(ABSENT, sent(secret()), wanted=wanted)).ready


# Drift


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(sent(secret()), True, id="as we left it"),
        pytest.param(ABSENT, False, id="gone"),
        pytest.param(sent(secret(owners=[])), False, id="without its owner"),
        pytest.param(sent(secret(["user"])), False, id="a key is missing"),
        pytest.param(sent(secret(), labels={}), False, id="its label is gone"),
        pytest.param(refusal(503), True, id="nobody knows"),
        pytest.param(refusal(422, f"ValidatingAdmissionPolicy: {FOREIGN_SECRET}"), False, id="another's, says policy"),
    ],
)
async def test_looking_for_drift(scene: Scene, answer: Answer, expected: bool) -> None:
    await scene.sync(ABSENT, sent(secret()))
    scene.server.will_answer(answer)
    assert await scene.syncer.unchanged(sync(), scene.written) is expected
    assert scene.requests == ["look", "POST", "look"]
    assert len(scene.vault.asked) == 1
    if expected:
        assert scene.written.mark == mark(secret())


# Assertions


async def test_an_assertion_is_a_token_for_entra_alone(scene: Scene) -> None:
    scene.server.will_answer({"status": {"token": "a.b.c", "expirationTimestamp": "2030-01-01T00:00:00Z"}})
    who = Identity("team", "robot", "client-1", "tenant-1")
    assert await assertions(scene.syncer._kube)(who) == "a.b.c"
    assert scene.server.asked[0].path == "/api/v1/namespaces/team/serviceaccounts/robot/token"
    assert scene.body()["spec"]["audiences"] == [TOKEN_AUDIENCE]
    scene.server.will_answer(refusal(404))
    with pytest.raises(ProviderError, match="no ServiceAccount robot in namespace team; create it"):
        await assertions(scene.syncer._kube)(who)
