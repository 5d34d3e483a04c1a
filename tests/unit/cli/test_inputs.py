"""Give arbitrary inputs to the controller's parsers: each returns a result or raises one of the controller's errors."""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.akvsync.expand import expand_akvsync
from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.domain.decision import (
    NoChange,
    ObservedState,
    RejectWrite,
    WriteSecret,
    decide_write,
    find_spec_mistake,
)
from controller.domain.decode_values import decode_values, flatten_expanded
from controller.domain.provider_class import ObjectVersionRef, ProviderConfig, VaultObject, read_class
from controller.domain.values import SecretBytes, VaultValue
from controller.errors import ClassError, ControllerError, InputError, ProviderError
from controller.runtime.backoff import parse_retry_after, refresh_interval
from controller.runtime.rate_limiter import AdaptiveRateLimiter
from tests.support.builders import make_azure_class, make_secret_meta, make_sync
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.reader_harness import JSON, ReaderHarness, start_reader
from tools.local_cluster.pki import ClusterAuthority

# Texts with characters that have a meaning in YAML, JSON, paths or shells, and any other texts.
TEXTS = st.one_of(
    st.text(st.sampled_from("abA0-_./:#'\"[]{}|>&*!%@`, \n\t\\~?=\x00\x85\u2028é"), max_size=60), st.text(max_size=60)
)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["objectName", "objectType", "objectVersion", "objectVersionHistory", "objectAlias", "objectFormat"]
FIELD_TEXTS = st.one_of(TEXTS, st.sampled_from(["secret", "cert", "key", "2", "500", "501", "a", "pfx", "base64", ""]))
# `objects` in the usual form, with arbitrary values of the fields.
LIKELY_OBJECTS = st.lists(st.dictionaries(st.sampled_from([*FIELDS, "x"]), FIELD_TEXTS, max_size=5), max_size=4).map(
    lambda items: yaml.safe_dump({"array": [yaml.safe_dump(item) for item in items]})
)


@given(objects=TEXTS | LIKELY_OBJECTS, path=TEXTS)
@example(objects="array:\n- &a x\n- *a", path="x")
@example(objects="array: [!!python/object:os.system x]", path="x")
@example(objects="array: ['{objectName: a, objectVersionHistory: \u0665}']", path="a/\u0661")
def test_any_objects_parameter_is_parsed_or_raises_a_class_error(objects: str, path: str) -> None:
    try:
        found = read_class(make_azure_class(objects=objects))
    except ClassError:
        return
    assert found.objects.keys().isdisjoint(found.faults)
    assert all(0 < len(problem) < 1000 for problem in found.item_problems)
    for name, each in found.objects.items():
        assert each.served_as == name
    with contextlib.suppress(InputError, ClassError):
        assert found.resolve_path(path).object in found.objects.values()


@given(name=st.sampled_from(["keyvaultName", "clientID", "tenantID", "cloudName", "usePodIdentity"]), text=TEXTS)
def test_any_class_parameter_gives_a_short_result_or_error(name: str, text: str) -> None:
    try:
        message = str(read_class(make_azure_class(**{name: text})))
    except ClassError as error:
        message = error.message
    assert 0 < len(message) < 1000


@pytest.mark.parametrize("kind", [SecretSync, SecretProviderClass, AKVSync])
@given(spec=JSONS, status=JSONS)
def test_any_watched_object_is_decoded_or_raises_a_validation_error(kind: Any, spec: Any, status: Any) -> None:
    raw = msgspec.json.encode({"metadata": {"name": "a", "namespace": "b"}, "spec": spec, "status": status})
    try:
        found = msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError:
        return  # the informer stores an `Unreadable` instead
    assert isinstance(found, kind)


KEYS = st.one_of(TEXTS, st.sampled_from(["tls.crt", "tls.key", "username", ".dockerconfigjson", "a", "b"]))
TYPES = st.one_of(
    TEXTS,
    st.sampled_from(["Opaque", "kubernetes.io/tls", "kubernetes.io/basic-auth", "kubernetes.io/dockerconfigjson"]),
)


@given(
    pairs=st.dictionaries(KEYS, st.sampled_from(["a", "b/0", "b/1", "c/tls.crt"]), min_size=1, max_size=4),
    kind=TYPES,
    values=st.lists(
        st.binary(max_size=80) | st.sampled_from([b"{}", b"[]", b"-----BEGIN CERTIFICATE-----"]), min_size=4
    ),
    content_type=st.sampled_from(["", "application/x-pkcs12", "application/x-pem-file"]) | TEXTS,
    failing=st.sets(st.integers(0, 3)),
    exists=st.booleans(),
    partial=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_secretsync_with_any_values_leads_to_a_decision(
    pairs: dict[str, str],
    kind: str,
    values: list[bytes],
    content_type: str,
    failing: set[int],
    exists: bool,
    partial: bool,
) -> None:
    wanted_sync = make_sync(pairs, type=kind)
    known = {
        "a": VaultObject(name="a", format="pfx"),
        "b": VaultObject(name="b", history=2, encoding="base64"),
        "c": VaultObject(name="c"),
    }
    if find_spec_mistake(wanted_sync):
        return
    try:
        wanted = ProviderConfig(vault="v", client_id="c", tenant_id="t", cloud="", objects=known).wanted(
            wanted_sync.spec.secret_object
        )
    except InputError:
        return
    found = sorted({version.whole for version in wanted.values()}, key=str)
    read: dict[ObjectVersionRef, VaultValue | ControllerError] = {
        version: ProviderError("away")
        if number in failing
        else VaultValue(value=SecretBytes(values[number]), version="v1", content_type=content_type)
        for number, version in enumerate(found)
    }
    fetched = flatten_expanded(wanted, decode_values("v", wanted, read, NOW))
    decision = decide_write(
        ObservedState(
            sync=wanted_sync,
            secret=make_secret_meta(pairs) if exists else None,
            fetched=fetched,
            digests=dict.fromkeys(fetched, b"d"),
            known={},
            partial=partial,
        )
    )
    assert isinstance(decision, WriteSecret | NoChange | RejectWrite)
    if isinstance(decision, WriteSecret):
        # For all values, the patch deletes no key and does not contain a key that failed.
        failed = {key for key, item in fetched.items() if isinstance(item, ControllerError)}
        assert not failed & decision.body["data"].keys()
        assert None not in [decision.body["data"].get(key, "") for key in pairs]
    elif isinstance(decision, RejectWrite):
        long = [value for value in values if len(value) > 8]
        assert not any(repr(value)[2:-1] in decision.error.message for value in long)


IN_VAULT = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z-]{0,9}", fullmatch=True)
AKV_OBJECTS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "secretInAKV": IN_VAULT,
            "certInAKV": IN_VAULT,
            "kubernetesSecretName": KEYS,
            "kubernetesSecretType": TYPES,
            "versionHistory": st.integers(-1, 600),
            "mapping": st.lists(
                st.fixed_dictionaries(
                    {"dataKey": KEYS},
                    optional={"secretInAKV": IN_VAULT, "certInAKV": IN_VAULT, "version": st.integers(-1, 600)},
                ),
                max_size=3,
            ),
        },
    ),
    min_size=1,
    max_size=4,
)


@given(objects=AKV_OBJECTS)
@example(objects=[{"kubernetesSecretName": "a", "mapping": [{"dataKey": "", "secretInAKV": "a"}]}])
def test_any_akvsync_is_expanded_or_raises_an_input_error(objects: list[dict[str, Any]]) -> None:
    """Include AKVSyncs that the CRD would refuse, because an older CRD may have accepted them."""
    spec = {"keyvaultName": "abc", "clientID": "c", "tenantID": "t", "serviceAccountName": "s", "objects": objects}
    raw = msgspec.json.encode({"metadata": {"name": "a", "namespace": "b", "uid": "u"}, "spec": spec})
    try:
        akv = msgspec.json.decode(raw, type=AKVSync)
    except msgspec.ValidationError:
        return
    try:
        made = expand_akvsync(akv)
    except InputError:
        return
    if made.source is None:  # it has only selections, and the vault is not listed yet
        assert not made.syncs
        return
    # The code for SecretSyncs accepts the generated objects.
    found = read_class(made.source)
    for each in made.syncs.values():
        assert find_spec_mistake(each) is None
        assert found.wanted(each.spec.secret_object)


@given(text=TEXTS)
@example("\u0665")
@example("9" * 5000)
@example("-1")
@example("1e9")
@example("nan")
def test_any_wait_text_gives_a_bounded_number_or_none(text: str) -> None:
    wait = parse_retry_after({"Retry-After": text})
    assert wait is None or 0 <= wait <= 300
    interval = refresh_interval(text, 3600, 60)
    assert interval is None or 60 <= interval < 10**10


# Answers of a vault


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClusterAuthority:
    return ClusterAuthority(tmp_path_factory.mktemp("pki"), "vaults")


@pytest.fixture
async def harness(authority: ClusterAuthority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReaderHarness]:
    """Provide a reader that trusts only the vault's authority, because reading the system's roots is slow."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pair.cert))
    async with start_reader(authority) as found:
        yield found


ATTRIBUTES = st.dictionaries(st.sampled_from(["enabled", "updated", "created", "exp", "nbf"]), JSONS, max_size=3)
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "id": JSONS | st.just("https://x/secrets/a/v1"),
        "kid": JSONS | st.just("https://x/keys/a/v1"),
        "value": JSONS,
        "cer": JSONS,
        "key": JSONS,
        "attributes": ATTRIBUTES | JSONS,
        "contentType": JSONS,
    },
)
ANSWERS = st.one_of(
    ITEMS, JSONS, st.fixed_dictionaries({"value": st.lists(ITEMS, max_size=2) | JSONS}, optional={"nextLink": JSONS})
)
WANTED = [
    ObjectVersionRef(VaultObject(name="a")),
    ObjectVersionRef(VaultObject(name="b", type="cert")),
    ObjectVersionRef(VaultObject(name="c", type="key")),
    ObjectVersionRef(VaultObject(name="d", history=2), 1),
    ObjectVersionRef(VaultObject(name="e", version="v1")),
]


@pytest.fixture
def drawn_answers() -> list[tuple[Any, int, Any]]:
    """Draw answers (body, status, Retry-After) before the test starts, because one server serves all of them."""
    found: list[tuple[Any, int, Any]] = []

    @given(ANSWERS, st.sampled_from([200, 200, 200, 200, 204, 302, 400, 401, 403, 404, 409, 429, 500]), TEXTS)
    @settings(max_examples=150, database=None)
    def draw(body: Any, status: int, text: str) -> None:
        found.append((body, status, text))

    draw()
    return found


async def test_any_vault_answer_becomes_a_value_or_a_controller_error(
    harness: ReaderHarness, drawn_answers: list[tuple[Any, int, Any]]
) -> None:
    for number, (body, status, text) in enumerate(drawn_answers):
        harness.now += 1000  # the effect of the previous failure has passed
        harness.reader.client.rate_limiter = AdaptiveRateLimiter(lambda: harness.now)
        wait = {"Retry-After": text} if text.isascii() and text.isprintable() else {}
        harness.server.default_response = answer_always(ScriptedResponse(body, status=status, headers=JSON | wait))
        before = len(harness.server.requests)
        read = await harness.reader.read(WANTED, since=harness.now, first=True)
        assert read.keys() == set(WANTED)
        try:
            seen = await harness.reader.take_snapshot(WANTED, harness.now)
        except ControllerError:
            pass
        else:
            seen.stale_keys(dict(enumerate(WANTED)), SecretSyncStatus().objects)  # type: ignore[arg-type]
        request_count = len(harness.server.requests) - before
        assert request_count < 20, f"answer {number}: {request_count} requests"
        for item in read.values():
            assert isinstance(item, VaultValue | ControllerError)


def answer_always(answer: ScriptedResponse) -> Callable[[Any], ScriptedResponse]:
    return lambda _: answer
