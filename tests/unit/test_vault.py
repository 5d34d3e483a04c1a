"""Reading a vault: the Azure SDK against a vault on loopback that says what a test makes it say, over real TLS."""

import asyncio
import base64
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controller import vaults
from controller.calls import AT_ONCE_EACH, LEAVE_ALONE
from controller.errors import ClassError, ControllerError, ObjectError, ProviderError
from controller.fetched import Fetched
from controller.identity import Identity
from controller.objects import VaultObject, VersionOf
from controller.settings import Cloud
from controller.vaults import Vaults
from tests.unit.api_server import Answer, Asked
from tests.unit.issuing import Issued, issue
from tests.unit.vault_stage import CANARY, CHALLENGE, JSON, USER, Scene, refusal, staged
from tools.local_cluster.pki import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), "vaults")


@pytest.fixture
async def scene(authority: Authority) -> AsyncIterator[Scene]:
    async with staged(authority) as found:
        yield found


# What is read


async def test_the_newest_version_is_one_get(scene: Scene) -> None:
    scene.has("user", "me")
    assert await scene.read(USER) == ["me"]
    assert [path.rstrip("/") for path in scene.reads] == ["/secrets/user"]
    assert scene.counted == [("secrets.get", "ok")]


async def test_a_pinned_version(scene: Scene) -> None:
    scene.has("user", "old", "v0", newest=False)
    assert await scene.read(VersionOf(VaultObject(name="user", version="v0"))) == ["old"]


@pytest.mark.parametrize("value", ["", "ünïcode", "x" * 25_000])
async def test_values_arrive_as_they_are(scene: Scene, value: str) -> None:
    scene.has("user", value)
    assert await scene.read(USER) == [value]


async def test_an_answer_without_a_value_blanks_nothing(scene: Scene) -> None:
    scene.has("user", None)
    assert "no usable answer" in (await scene.fails()).message


@pytest.mark.parametrize(
    ("listed", "pinned", "expected"),
    [
        pytest.param([("a", 1, True), ("c", 3, True), ("b", 2, True)], "", ["c", "b", "a"], id="newest first"),
        pytest.param([("a", 1, True), ("b", 2, False), ("c", 3, True)], "", ["c", "a"], id="disabled are skipped"),
        pytest.param([("a", 1, True), ("b", 2, True), ("c", 3, True)], "b", ["b", "a"], id="from the pinned one on"),
    ],
)
async def test_history(scene: Scene, listed: list[tuple[str, int, bool]], pinned: str, expected: list[str]) -> None:
    scene.lists("db", *listed)
    found = VaultObject(name="db", history=3, version=pinned)
    answers = await scene.read(*(VersionOf(found, index) for index in range(3)))
    assert answers[: len(expected)] == [f"value of {version}" for version in expected]
    for missing in answers[len(expected) :]:
        assert isinstance(missing, ObjectError)
        assert f"has {len(expected)} enabled version(s)" in missing.message
    assert scene.reads.count("/secrets/db/versions") == 1


async def test_two_versions_of_one_second_are_told_apart_by_the_newest(scene: Scene) -> None:
    scene.lists("db", ("a", 5, True), ("z", 5, True))
    scene.has("db", "value of a", "a")
    found = VaultObject(name="db", history=2)
    assert await scene.read(VersionOf(found, 0), VersionOf(found, 1)) == ["value of a", "value of z"]


async def test_that_the_newest_is_disabled_does_not_hide_the_others(scene: Scene) -> None:
    scene.lists("db", ("a", 5, True), ("b", 5, True), ("c", 5, False))
    scene.answers["/secrets/db/"] = scene.answers["/secrets/db"] = refusal(403, "Forbidden", "SecretDisabled")
    assert len([item for item in await scene.read(VersionOf(VaultObject(name="db", history=2))) if item]) == 1


# Certificates and keys

LEAF = issue("web")
WEB, SIGN = VersionOf(VaultObject(name="web", type="cert")), VersionOf(VaultObject(name="sign", type="key"))


def shows(scene: Scene, path: str, version: str = "v1", enabled: bool = True, **body: Any) -> None:
    """Puts a version of a certificate or key into the vault."""
    url = f"{scene.server.url}{path}/{version}"
    times = {"enabled": enabled, "created": 5, "updated": 9, "nbf": 10, "exp": 20}
    if "key" in body:
        body["key"]["kid"] = url
    answer = Answer({"id": url, "attributes": times} | body, headers=JSON)
    for each in (path, f"{path}/", f"{path}/{version}"):
        scene.answers[each] = answer


def cer(issued: Issued) -> str:
    return base64.b64encode(issued.certificate.public_bytes(Encoding.DER)).decode()


def b64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).decode().rstrip("=")


def jwk(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, kty: str, crv: str = "") -> dict[str, Any]:
    numbers = key.public_numbers()
    if isinstance(numbers, rsa.RSAPublicNumbers):
        return {"kty": kty, "n": b64url(numbers.n), "e": b64url(numbers.e)}
    return {"kty": kty, "crv": crv, "x": b64url(numbers.x), "y": b64url(numbers.y)}


async def test_a_certificate_is_its_leaf(scene: Scene) -> None:
    shows(scene, "/certificates/web", cer=cer(LEAF))
    for wanted in (WEB, VersionOf(VaultObject(name="web", type="cert", version="v1"))):
        (found,) = (await scene.reader.read([wanted], since=scene.now, first=True)).values()
        assert isinstance(found, Fetched), found
        assert found.value.reveal().decode() == LEAF.pem
        assert (found.version, found.updated) == ("v1", datetime.fromtimestamp(9, UTC))
        assert (found.not_before, found.expires) == (datetime.fromtimestamp(10, UTC), datetime.fromtimestamp(20, UTC))
    assert scene.counted == [("certificates.get", "ok")] * 2


@pytest.mark.parametrize(
    ("key", "kty", "crv"),
    [
        pytest.param(rsa.generate_private_key(65537, 2048), "RSA", "", id="RSA"),
        pytest.param(rsa.generate_private_key(3, 2048), "RSA-HSM", "", id="RSA in hardware"),
        pytest.param(ec.generate_private_key(ec.SECP256R1()), "EC", "P-256", id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), "EC-HSM", "P-384", id="P-384 in hardware"),
        pytest.param(ec.generate_private_key(ec.SECP521R1()), "EC", "P-521", id="P-521"),
        pytest.param(ec.generate_private_key(ec.SECP256K1()), "EC", "P-256K", id="P-256K"),
    ],
)
async def test_a_key_is_its_public_half(
    scene: Scene, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kty: str, crv: str
) -> None:
    shows(scene, "/keys/sign", key=jwk(key.public_key(), kty, crv))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert await scene.read(SIGN) == [public.decode()]
    assert scene.counted == [("keys.get", "ok")]


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "RSA"},
        {"kty": "RSA", "n": "AQ", "e": "AQ"},
        {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"},
        {"kty": "EC", "crv": "P-1", "x": "AQ", "y": "AQ"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AQ"},
        {},
    ],
)
async def test_a_key_that_makes_no_sense(scene: Scene, key: dict[str, str]) -> None:
    shows(scene, "/keys/sign", key=key)
    assert "gave no usable answer" in (await scene.fails(SIGN)).message


async def test_a_certificate_without_one(scene: Scene) -> None:
    shows(scene, "/certificates/web")
    assert "gave no usable answer" in (await scene.fails(WEB)).message


async def test_a_symmetric_key_has_no_public_half(scene: Scene) -> None:
    shows(scene, "/keys/sign", key={"kty": "oct-HSM"})
    error = await scene.fails(SIGN)
    assert isinstance(error, ObjectError)
    assert "key sign in Key Vault shop is symmetric" in error.message


async def test_what_is_disabled_is_not_taken_though_the_vault_shows_it(scene: Scene) -> None:
    shows(scene, "/certificates/web", cer=cer(LEAF), enabled=False)
    shows(scene, "/keys/sign", key=jwk(LEAF.key.public_key(), "EC", "P-256"), enabled=False)
    certificate, key = await scene.read(WEB, SIGN)
    assert isinstance(certificate, ObjectError)
    assert certificate.message == "certificate web is disabled in Key Vault shop; enable it there"
    assert isinstance(key, ObjectError)
    assert key.message == "key sign is disabled in Key Vault shop; enable it there"


@pytest.mark.parametrize("kind", ["cert", "key"])
async def test_history_of_certificates_and_keys(scene: Scene, kind: str) -> None:
    path, id_field = {"cert": ("/certificates/web", "id"), "key": ("/keys/web", "kid")}[kind]
    listed = [("a", 1, True), ("b", 2, False), ("d", 3, True), ("c", 3, True)]
    items = [
        {id_field: f"{scene.server.url}{path}/{version}", "attributes": {"enabled": enabled, "created": created}}
        for version, created, enabled in listed
    ]
    scene.answers[f"{path}/versions"] = Answer({"value": items, "nextLink": None}, headers=JSON)
    for version, _, _ in sorted(listed):  # the last is what a get without a version answers
        shows(scene, path, version, cer=cer(LEAF), key=jwk(LEAF.key.public_key(), "EC", "P-256"))
    found = VaultObject(name="web", type=kind, history=3)
    answers = await scene.reader.read([VersionOf(found, index) for index in range(4)], since=scene.now, first=True)
    told = [item.version if isinstance(item, Fetched) else item.message for item in answers.values()]
    assert told[:3] == ["d", "c", "a"]
    assert f"{found.noun} has 3 enabled version(s)" in told[3]


# What is said of failures


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (USER, ["secret user", "Key Vault Secrets User"]),
        (WEB, ["certificate web", "Key Vault Reader"]),
        (SIGN, ["key sign", "Key Vault Reader"]),
    ],
)
async def test_each_kind_is_called_by_its_name(scene: Scene, wanted: VersionOf, words: list[str]) -> None:
    noun, role = words
    assert f"{noun} is not in Key Vault shop" in (await scene.fails(wanted)).message
    scene.server.otherwise = lambda asked: (
        refusal(403, "Forbidden", "ForbiddenByRbac") if "Authorization" in asked.headers else CHALLENGE
    )
    assert f"may not read {noun} in Key Vault shop; assign it the role {role}" in (await scene.fails(wanted)).message


@pytest.mark.parametrize(("history", "right"), [(1, "Get for certificates"), (2, "List for certificates")])
async def test_a_vault_with_access_policies(scene: Scene, history: int, right: str) -> None:
    for path in ("/certificates/web", "/certificates/web/", "/certificates/web/versions"):
        scene.answers[path] = refusal(403, "Forbidden", "AccessDenied")
    error = await scene.fails(VersionOf(VaultObject(name="web", type="cert", history=history)))
    assert isinstance(error, ObjectError)
    assert f"give it the permission {right} in the vault's access policies" in error.message


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refusal(404, "SecretNotFound"), ObjectError, ["secret user is not in Key Vault shop", "create or recover"]),
        (refusal(403, "Forbidden", "SecretDisabled"), ObjectError, ["secret user is disabled", "enable it"]),
        (refusal(403, "Forbidden", "ForbiddenByRbac"), ObjectError, ["client-1 may not read secret user", "assign"]),
        (refusal(403, "Forbidden", "ForbiddenByFirewall"), ProviderError, ["firewall", "allow its address"]),
        (refusal(403, "Forbidden"), ObjectError, ["client-1 may not read secret user"]),
        (CHALLENGE, ProviderError, ["does not accept the token of identity client-1", "tenantID"]),
        (refusal(429, "Throttled", Retry_After="17"), ProviderError, ["throttled", "rotationPollIntervalInSeconds"]),
        (refusal(500), ProviderError, ["HTTP 500", "tries again"]),
        (refusal(503), ProviderError, ["HTTP 503", "tries again"]),
        (Answer(CANARY.encode(), status=502), ProviderError, ["HTTP 502", "tries again"]),
        (Answer({"error": CANARY}, status=403, headers=JSON), ObjectError, ["may not read"]),
        (Answer(b"", status=302, headers={"Location": "https://127.0.0.1:1/"}), ProviderError, ["HTTP 302"]),
    ],
)
async def test_each_refusal_gives_cause_and_next_step(
    scene: Scene, answer: Answer, kind: type[ControllerError], words: list[str]
) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = answer
    error = await scene.fails()
    assert type(error) is kind
    for word in words:
        assert word in error.message
    assert CANARY not in error.message
    assert error.retry_after == (17 if answer.status == 429 else None)
    assert scene.tokens_refused == (1 if answer.status == 401 else 0)


ODD = [
    b'{"value":"v","id":"https://x/secrets/user/v1","attributes":{"%s":{}}}' % name.encode()
    for name in ("updated", "exp", "nbf")
]


@pytest.mark.parametrize(
    "body", [b"", b"<html>Sign in</html>", b"null", b"[]", b'"x"', b"{}", b'{"value":"v","id":5}', *ODD]
)
async def test_a_good_status_with_a_body_that_makes_no_sense(scene: Scene, body: bytes) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = Answer(body, headers=JSON)
    error = await scene.fails()
    assert isinstance(error, ProviderError)
    assert "gave no usable answer" in error.message


async def test_without_a_token_the_vault_is_not_blamed(scene: Scene) -> None:
    scene.no_token = ProviderError("no federated credential")
    assert (await scene.fails()).message == "no federated credential"
    assert scene.counted == [("secrets.get", "no token")]
    scene.no_token = None
    scene.has("user", "me")
    assert await scene.read(USER) == ["me"]


@pytest.mark.parametrize("takes_the_other", [True, False])
async def test_where_a_token_is_refused_and_there_is_another_it_is_tried(scene: Scene, takes_the_other: bool) -> None:
    refused = refusal(401)
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refused

    def another(_sent: float) -> bool:
        if takes_the_other:
            scene.has("user", "me")
        return True

    scene.refused = another  # type: ignore[method-assign]
    if takes_the_other:
        assert await scene.read(USER) == ["me"]
    else:
        assert "does not accept the token" in (await scene.fails()).message
    assert len(scene.reads) == 2
    assert scene.counted == [("secrets.get", "ok" if takes_the_other else "401")]


async def test_one_objects_failure_leaves_the_others_alone(scene: Scene) -> None:
    scene.has("user", "me")
    gone, me = await scene.read(VersionOf(VaultObject(name="gone")), USER)
    assert isinstance(gone, ObjectError)
    assert me == "me"


async def test_errors_keep_neither_frames_nor_causes(scene: Scene) -> None:
    # Frames hold their locals, among them the values of other objects.
    scene.has("user", CANARY)
    found = await scene.reader.read([USER, VersionOf(VaultObject(name="gone"))], since=scene.now, first=True)
    error = found[VersionOf(VaultObject(name="gone"))]
    assert isinstance(error, ObjectError)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
    del found, error
    scene.reader._forget_values()  # as happens two seconds later
    gc.collect()
    assert CANARY.encode() not in [item.value.reveal() for item in gc.get_objects() if isinstance(item, Fetched)]


# A vault that is down


async def test_a_vault_that_is_down_is_asked_once_by_a_thousand(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(503)
    first = await scene.fails()
    before = len(scene.server.asked)
    rest = await asyncio.gather(*(scene.fails() for _ in range(1000)))
    assert {error.message for error in rest} == {first.message}
    assert len(scene.server.asked) == before


async def test_afterwards_one_tries_and_the_others_hear_what_they_heard(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(503)
    await scene.fails()
    before = len(scene.reads)
    scene.now += LEAVE_ALONE + 1
    await asyncio.gather(*(scene.fails() for _ in range(100)))
    assert len(scene.reads) - before == 1
    scene.has("user", "me")
    scene.now += LEAVE_ALONE + 1
    assert await scene.read(USER) == ["me"]
    assert await asyncio.gather(*(scene.read(USER) for _ in range(50))) == [["me"]] * 50


async def test_retry_after_is_kept(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(429, Retry_After="60")
    await scene.fails()
    before = len(scene.server.asked)
    scene.now += 59
    await scene.fails()
    assert len(scene.server.asked) == before


async def test_one_vault_does_not_take_every_slot(scene: Scene) -> None:
    scene.has("user")
    await scene.read(USER)  # the challenge has been met
    hanging = 0
    full = asyncio.Event()

    def hang(_: Asked) -> Answer:
        nonlocal hanging
        hanging += 1
        if hanging == AT_ONCE_EACH:
            full.set()
        return Answer(held=True)

    scene.server.otherwise = hang
    many = [VersionOf(VaultObject(name=f"s{number}")) for number in range(2 * AT_ONCE_EACH)]
    reading = asyncio.create_task(scene.read(*many))
    await asyncio.wait_for(full.wait(), 10)
    for _ in range(1000):  # time enough for one more to arrive
        await asyncio.sleep(0)
    assert hanging == AT_ONCE_EACH
    reading.cancel()
    await asyncio.wait([reading])


# All vaults


async def test_readers_are_shared_by_one_identity_and_dropped_when_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(vaults, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

    all_vaults = Vaults(clouds, assertion, lambda *_: None)
    one, other = Identity("team", "robot", "c", "tenant-1"), Identity("else", "robot", "c", "tenant-1")
    first = all_vaults.reader(one, "here", "shop")
    assert all_vaults.reader(one, "here", "shop") is first
    assert all_vaults.reader(one, "here", "bank") is not first
    assert all_vaults.reader(other, "here", "shop") is not first
    now[0] = 500
    assert all_vaults.reader(other, "here", "shop")
    now[0] = 700
    await all_vaults.drop_unused(600)
    assert len(all_vaults._readers) == len(all_vaults._credentials) == 1
    second = all_vaults.reader(one, "here", "shop")
    assert second is not first
    # A cloud that was taken away is not reached by what was made for it, nor when it comes back somewhere else.
    clouds["here"] = Cloud(authority="https://login.example.org", vault_url="https://{vault}.example.org")
    assert all_vaults.reader(one, "here", "shop") is not second
    del clouds["here"]
    with pytest.raises(ClassError, match=r"cloud 'here' is gone"):
        all_vaults.reader(one, "here", "shop")
    now[0] = 1400
    await all_vaults.drop_unused(600)
    assert not all_vaults._readers
    assert not all_vaults._transports
    await all_vaults.close()
