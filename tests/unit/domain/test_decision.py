"""Test the decision about the Secret of one SecretSync, for each observed state."""

import base64
import json
from collections.abc import Iterable, Mapping

import msgspec
import pytest

from controller.api.meta import ManagedFieldsEntry, ObjectMeta, OwnerReference
from controller.api.secretsync import SecretObjectData, SecretSync
from controller.config.settings import FIELD_MANAGER
from controller.domain.decision import (
    SYNC_LABEL,
    NoChange,
    ObservedState,
    RejectWrite,
    WaitForGarbageCollection,
    WriteSecret,
    check_ownership,
    contested_fields,
    decide_write,
    find_spec_mistake,
    leftover_keys,
    metadata_patch,
    partial_message,
    placeholder_write,
    seconds_until_served,
    source_paths,
)
from controller.domain.managed_fields import SSE_MANAGER
from controller.domain.values import Unchanged, VaultValue
from controller.errors import (
    ControllerError,
    InputError,
    KubeError,
    ObjectError,
    OwnershipError,
    ProviderError,
    Retry,
    Unreachable,
    UnusableValue,
)
from controller.keyvault.errors import throttled_error
from tests.support.builders import make_managed_fields, make_owner, make_secret_meta, make_sync, make_value
from tests.support.hostile_texts import HOSTILE_JSON
from tests.support.process_stats import thread_seconds

MISSING = ObjectError("secret pass is not in Key Vault shop; create it there")
UNREACHABLE = ProviderError("Key Vault shop did not answer in time; check the route", retry_after=7)
UNUSABLE = UnusableValue("secret pass has no property")
Given = Mapping[str, VaultValue | Unchanged | ControllerError]
BOTH: Given = {"user": make_value("me"), "pass": make_value("word")}


def decide(
    wanted: SecretSync | None = None,
    found: ObjectMeta | None = None,
    given: Given = BOTH,
    *,
    known: Iterable[str] = (),
    partial: bool = True,
) -> WaitForGarbageCollection | RejectWrite | NoChange | WriteSecret:
    """Return the decision if the last write had the current values of the `known` keys."""
    digests = {key: item.value.reveal() for key, item in given.items() if isinstance(item, VaultValue)}
    return check_ownership(wanted or make_sync(), found) or decide_write(
        ObservedState(
            sync=wanted or make_sync(),
            secret=found,
            fetched=given,
            digests=digests,
            known={key: digests.get(key, b"written earlier") for key in known},
            partial=partial,
        )
    )


def expect_write(decision: WaitForGarbageCollection | RejectWrite | NoChange | WriteSecret) -> WriteSecret:
    assert isinstance(decision, WriteSecret), decision
    return decision


def expect_rejection(decision: WaitForGarbageCollection | RejectWrite | NoChange | WriteSecret) -> ControllerError:
    assert isinstance(decision, RejectWrite), decision
    return decision.error


def decode_data(decision: WaitForGarbageCollection | RejectWrite | NoChange | WriteSecret) -> dict[str, str | None]:
    """Return the written data, decoded; None for a removed key."""
    body = expect_write(decision).body["data"]
    return {key: None if text is None else base64.b64decode(text).decode() for key, text in body.items()}


# Ownership


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        pytest.param([make_owner()], WriteSecret, id="own SecretSync"),
        pytest.param(
            [make_owner(uid="an-earlier-one")],
            WaitForGarbageCollection,
            id="deleted SecretSync of the same name",
        ),
        pytest.param([make_owner(name="other", uid="another")], RejectWrite, id="another SecretSync"),
        pytest.param([make_owner(name="other")], WriteSecret, id="own UID with another name"),
        pytest.param([], RejectWrite, id="no owner"),
        pytest.param(
            [make_owner(kind="Certificate", group="cert-manager.io")], RejectWrite, id="another kind with the own UID"
        ),
        pytest.param([make_owner(kind="SecretSyncSet")], RejectWrite, id="another kind of the same group"),
        pytest.param(
            [make_owner(group="secret-sync.example.com", uid="x")], RejectWrite, id="same kind of another group"
        ),
        pytest.param(
            [make_owner(), make_owner(kind="Deployment", group="apps", uid="x")],
            RejectWrite,
            id="own SecretSync and another owner",
        ),
    ],
)
def test_owner_references_decide_whether_the_secret_is_written(
    owners: list[OwnerReference], expected: type[WaitForGarbageCollection | RejectWrite | NoChange | WriteSecret]
) -> None:
    decision = decide(found=make_secret_meta(owners=owners))
    assert type(decision) is expected
    if expected is RejectWrite:
        error = expect_rejection(decision)
        assert isinstance(error, OwnershipError)
        assert "not touched" in error.message


def test_ownership_error_comes_before_errors_of_the_vault() -> None:
    assert isinstance(
        expect_rejection(decide(found=make_secret_meta(owners=[]), given={"user": UNREACHABLE, "pass": UNREACHABLE})),
        OwnershipError,
    )


# Values


def test_new_secret_is_complete_and_has_a_non_blocking_owner() -> None:
    decision = expect_write(
        decide(make_sync(labels={"tier": "data"}, annotations={"note": "n"}, type="example.com/own"))
    )
    assert decision.create
    assert set(decision.body) == {"apiVersion", "kind", "type", "metadata", "data"}
    assert [decision.body[field] for field in ("apiVersion", "kind", "type")] == ["v1", "Secret", "example.com/own"]
    assert decision.body["metadata"] == {
        "name": "shop",
        "namespace": "team",
        "labels": {"tier": "data", "secrets-store.sync.x-k8s.io": ""},
        "annotations": {"note": "n"},
        "ownerReferences": [
            {
                "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
                "kind": "SecretSync",
                "name": "shop",
                "uid": "uid-of-the-sync",
            }
        ],
    }
    assert decode_data(decision) == {"user": "me", "pass": "word"}


def test_binary_value_is_written_unchanged() -> None:
    body = expect_write(decide(make_sync(["key"]), given={"key": make_value(bytes(range(256)))})).body
    assert base64.b64decode(body["data"]["key"]) == bytes(range(256))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param((), {"user": "me", "pass": "word"}, id="no known value"),
        pytest.param(("user",), {"pass": "word"}, id="one known value"),
        pytest.param(("user", "pass"), None, id="only known values"),
    ],
)
def test_only_changed_values_are_sent(known: tuple[str, ...], expected: dict[str, str] | None) -> None:
    decision = decide(found=make_secret_meta(), known=known)
    if expected is None:
        assert decision == NoChange()
    else:
        assert decode_data(decision) == expected
        assert not expect_write(decision).create


def test_key_removed_from_the_spec_is_removed_from_the_secret() -> None:
    decision = decide(
        make_sync(["user"]), make_secret_meta(["user", "pass"]), {"user": make_value("me")}, known=["user"]
    )
    assert decode_data(decision) == {"pass": None}


def test_key_that_another_client_added_is_removed() -> None:
    found = make_secret_meta(
        managed_fields=[
            make_managed_fields(["user", "pass"], labels=[SYNC_LABEL[0]]),
            make_managed_fields(["extra"], manager="kubectl-edit"),
        ]
    )
    assert decode_data(decide(found=found, known=["user", "pass"])) == {"extra": None}


def test_known_value_is_written_if_the_secret_lacks_its_key() -> None:
    # The key was removed from the SecretSync, and so from the Secret, and then added with the same value.
    assert decode_data(decide(found=make_secret_meta(["user"]), known=["user", "pass"])) == {"pass": "word"}


def test_update_has_the_type_the_data_and_the_metadata() -> None:
    decision = expect_write(decide(found=make_secret_meta(), known=["user"]))
    assert decision.body == {"type": "Opaque", "data": {"pass": "d29yZA=="}, "metadata": {}}


def test_unchanged_value_is_neither_written_nor_removed() -> None:
    given: Given = {"user": Unchanged(), "pass": make_value("word")}
    assert decide(found=make_secret_meta(), given=given, known=["pass"]) == NoChange()
    assert decode_data(decide(found=make_secret_meta(), given=given)) == {"pass": "word"}
    key, secret_type = ".dockercfg", "kubernetes.io/dockercfg"
    assert decide(make_sync([key], type=secret_type), make_secret_meta([key]), {key: Unchanged()}) == NoChange()


EXPANDED = msgspec.structs.replace(make_value(), expanded_from="db/*")


@pytest.mark.parametrize(
    ("fetched", "leftover"),
    [
        pytest.param({"user": make_value()}, {"host", "old"}, id="no expanded item"),
        pytest.param({"user": Unchanged()}, {"host", "old"}, id="unchanged value"),
        pytest.param({"user": make_value(), "db/*": MISSING}, set(), id="expanded item failed"),
        pytest.param({"user": make_value(), "db/*": Unchanged()}, set(), id="expanded item is unchanged"),
        pytest.param(
            {"host": EXPANDED, "db/*": UNUSABLE}, {"user", "old"}, id="one property of the expanded item is unusable"
        ),
        pytest.param(
            {"host": make_value(), "db/*": UnusableValue("twice", has_no_key=True)},
            {"user", "old"},
            id="other items make all keys of the expanded item",
        ),
        pytest.param({"host": EXPANDED, "other/*": MISSING}, set(), id="another expanded item failed"),
    ],
)
def test_keys_that_can_be_properties_of_a_failed_item_remain(fetched: Given, leftover: set[str]) -> None:
    assert leftover_keys(["user", "host", "old"], fetched) == leftover


def test_dry_run_has_a_placeholder_for_each_key() -> None:
    wanted = make_sync(labels={"tier": "data"}, type="example.com/own")
    data = {"user": "e30=", "pass": "e30="}
    new = expect_write(decide(wanted, given={"user": make_value("{}"), "pass": make_value("{}")})).body
    assert placeholder_write(wanted, None) == new
    assert new["data"] == data
    assert placeholder_write(wanted, make_secret_meta()) == {
        "type": "example.com/own",
        "data": data,
        "metadata": {"labels": {"tier": "data"}},
    }


def test_repr_of_a_decision_shows_no_value() -> None:
    assert repr(decide()) == "WriteSecret(create=True)"
    assert "word" not in repr(decide())
    assert base64.b64encode(b"word").decode() not in repr(decide())


# Labels and annotations


@pytest.mark.parametrize(
    ("wanted", "found", "patch"),
    [
        pytest.param(make_sync(labels={"a": "1"}), make_secret_meta(labels={"a": "1"}), {}, id="equal"),
        pytest.param(
            make_sync(labels={"a": "1"}),
            make_secret_meta(labels={"a": "2"}),
            {"labels": {"a": "1"}},
            id="edited label",
        ),
        pytest.param(
            make_sync(), make_secret_meta(labels={"a": "1"}), {"labels": {"a": None}}, id="label removed from the spec"
        ),
        pytest.param(
            make_sync(),
            make_secret_meta(annotations={"n": "1"}),
            {"annotations": {"n": None}},
            id="annotation removed from the spec",
        ),
        pytest.param(
            make_sync(),
            make_secret_meta(
                labels={"backup": "yes"},
                managed_fields=[
                    make_managed_fields(["user", "pass"], labels=[SYNC_LABEL[0]]),
                    make_managed_fields(labels=["backup"], manager="velero"),
                ],
            ),
            {},
            id="label of another client",
        ),
        pytest.param(
            make_sync(annotations={"n": "1"}),
            make_secret_meta(
                labels={"a": "1"},
                annotations={"n": "1", "o": "1", SYNC_LABEL[0]: ""},
                managed_fields=[
                    make_managed_fields(
                        ["user", "pass"],
                        labels=[SYNC_LABEL[0], "a"],
                        annotations=["n", "o", SYNC_LABEL[0]],
                        manager=SSE_MANAGER,
                    )
                ],
            ),
            {"labels": {"a": None}, "annotations": {"o": None}},
            id="set by SSE and removed from the spec",
        ),
        pytest.param(
            make_sync(annotations={"n": "1"}), make_secret_meta(), {"annotations": {"n": "1"}}, id="new annotation"
        ),
        pytest.param(
            make_sync(),
            msgspec.structs.replace(make_secret_meta(), labels={}),
            {"labels": {SYNC_LABEL[0]: SYNC_LABEL[1]}},
            id="label of the controller removed",
        ),
    ],
)
def test_patch_has_only_the_changed_labels_and_annotations(
    wanted: SecretSync, found: ObjectMeta, patch: dict[str, object]
) -> None:
    decision = decide(wanted, found, known=["user", "pass"])
    if patch:
        assert expect_write(decision).body["metadata"] == patch
        assert decode_data(decision) == {}
    else:
        assert decision == NoChange()


def test_managed_fields_without_metadata_remove_no_label() -> None:
    entry = ManagedFieldsEntry(manager=FIELD_MANAGER, fields_v1={"f:data": {"f:user": {}}})
    assert metadata_patch(make_sync(), make_secret_meta(labels={"a": "1"}, managed_fields=[entry])) == {}


@pytest.mark.parametrize(
    ("labels", "annotations", "shown"),
    [
        ({}, {}, None),
        ({"b": "1", "a": "1"}, {"n": "1"}, "label a, label b, annotation n of the Secret"),
        (dict.fromkeys("edcba", ""), {}, "label a, label b, label c, label d, label e of the Secret"),
        (dict.fromkeys("edcba", ""), {"n": ""}, "label a, label b, label c, label d, label e and 1 more of the Secret"),
        (
            dict.fromkeys("edcba", ""),
            {"n": "", "o": ""},
            "label a, label b, label c, label d, label e and 2 more of the Secret",
        ),
    ],
)
def test_warning_names_at_most_five_contested_fields(
    labels: dict[str, str], annotations: dict[str, str], shown: str | None
) -> None:
    warning = contested_fields(make_sync(labels=labels, annotations=annotations), make_secret_meta())
    if shown is None:
        assert warning == ""
    else:
        assert warning.startswith(f"another component, such as an admission webhook, changes {shown} after each write:")


# Values that could not be fetched


@pytest.mark.parametrize(
    ("partial", "found", "given", "expected"),
    [
        pytest.param(
            True,
            make_secret_meta(),
            {"user": make_value("me"), "pass": MISSING},
            WriteSecret,
            id="partial",
        ),
        pytest.param(
            False,
            make_secret_meta(),
            {"user": make_value("me"), "pass": MISSING},
            RejectWrite,
            id="all or nothing",
        ),
        pytest.param(True, None, {"user": make_value("me"), "pass": MISSING}, WriteSecret, id="partial, new Secret"),
        pytest.param(
            False, None, {"user": make_value("me"), "pass": MISSING}, RejectWrite, id="all or nothing, new Secret"
        ),
        pytest.param(True, make_secret_meta(), {"user": MISSING, "pass": MISSING}, RejectWrite, id="partial, no value"),
        pytest.param(False, make_secret_meta(), BOTH, WriteSecret, id="all or nothing, all values"),
    ],
)
def test_failed_key_prevents_the_write_unless_sync_is_partial(
    partial: bool,
    found: ObjectMeta | None,
    given: Given,
    expected: type[WaitForGarbageCollection | RejectWrite | NoChange | WriteSecret],
) -> None:
    decision = decide(found=found, given=given, partial=partial)
    assert type(decision) is expected
    if isinstance(decision, WriteSecret):
        assert decode_data(decision) == {
            key: item.value.reveal().decode() for key, item in given.items() if isinstance(item, VaultValue)
        }
        assert decision.failed == {key: item for key, item in given.items() if isinstance(item, ControllerError)}


def test_failed_key_keeps_its_last_value() -> None:
    # The patch does not contain the key, neither with a value nor with null.
    decision = decide(given={"user": make_value("new"), "pass": MISSING}, found=make_secret_meta(["user", "pass"]))
    assert decode_data(decision) == {"user": "new"}
    unchanged = decide(
        given={"user": make_value("me"), "pass": MISSING}, found=make_secret_meta(["user", "pass"]), known=["user"]
    )
    assert unchanged == NoChange(failed={"pass": MISSING})


def test_different_failures_are_listed_with_the_longest_retry_after() -> None:
    error = expect_rejection(decide(given={"user": UNREACHABLE, "pass": MISSING}))
    assert msgspec.json.decode(error.message) == [
        {"targetKey": "pass", "sourcePath": "pass", "status": "failed", "message": MISSING.message},
        {"targetKey": "user", "sourcePath": "user", "status": "failed", "message": UNREACHABLE.message},
    ]
    assert error.retry_after == 7
    assert expect_rejection(decide(given={"user": UNREACHABLE, "pass": UNREACHABLE})).message == UNREACHABLE.message


@pytest.mark.parametrize(
    ("first", "second", "expected", "retry", "retry_after"),
    [
        (UNREACHABLE, ProviderError("m", retry_after=9), ProviderError, Retry.BACKOFF, 9),
        (ProviderError("m", retry_after=9), UNREACHABLE, ProviderError, Retry.BACKOFF, 9),
        (MISSING, ProviderError("m"), ObjectError, Retry.BACKOFF, None),
        (UNUSABLE, MISSING, ObjectError, Retry.BACKOFF, None),
        (MISSING, UNUSABLE, ObjectError, Retry.BACKOFF, None),
        (UNUSABLE, UnusableValue("m"), UnusableValue, Retry.ON_NEW_VALUE, None),
    ],
)
def test_error_of_several_keys_waits_for_a_new_value_only_if_all_do(
    first: ControllerError,
    second: ControllerError,
    expected: type[ControllerError],
    retry: Retry,
    retry_after: float | None,
) -> None:
    error = expect_rejection(decide(given={"user": first, "pass": second}))
    assert type(error) is expected
    assert (error.retry, error.retry_after) == (retry, retry_after)


def test_key_of_a_failed_expanded_item_has_its_source_path() -> None:
    wanted = make_sync({"db": "path-of-db", "user": "path-of-user"})
    assert source_paths(wanted, {"db/*": MISSING}) == {"db/*": "path-of-db", "user": "path-of-user"}
    error = expect_rejection(decide(wanted, given={"db/*": MISSING, "user": UNREACHABLE}))
    assert [item["sourcePath"] for item in json.loads(error.message)] == ["path-of-db", "path-of-user"]


@pytest.mark.parametrize(
    ("failed", "seconds"),
    [
        ([MISSING, UNREACHABLE], None),
        ([throttled_error("shop", None)], 2.0),
        ([throttled_error("shop", 9), throttled_error("shop", 5), UNREACHABLE], 5),
    ],
)
def test_vault_that_gives_no_time_serves_after_the_first_retry(
    failed: list[ControllerError], seconds: float | None
) -> None:
    assert seconds_until_served({str(number): error for number, error in enumerate(failed)}) == seconds


def test_throttled_keys_of_a_partial_sync_retry_after_the_shortest_wait() -> None:
    soon, late = throttled_error("shop", 3), throttled_error("shop", 9)
    error = expect_rejection(decide(given={"user": late, "pass": soon}))
    assert (error.retry, error.retry_after) == (Retry.THROTTLED, 3)
    # If all keys or none are written, each attempt fetches all values again, so it waits for the longest time.
    error = expect_rejection(decide(given={"user": late, "pass": make_value()}, partial=False))
    assert (error.retry, error.retry_after) == (Retry.BACKOFF, 9)


def test_error_of_the_kubernetes_api_keeps_its_type() -> None:
    error = Unreachable("HTTP 503", status=503, retry_after=3)
    found = expect_rejection(decide(given={"user": error, "pass": error}))
    assert found is error
    assert isinstance(found, KubeError)
    assert (found.message, found.retry_after) == ("HTTP 503", 3)


# Mistakes in the SecretSync, and Secrets that Kubernetes would refuse


@pytest.mark.parametrize(
    ("secret_type", "required"),
    [
        ("kubernetes.io/tls", ("tls.crt", "tls.key")),
        ("kubernetes.io/ssh-auth", ("ssh-privatekey",)),
        ("kubernetes.io/dockercfg", (".dockercfg",)),
        ("kubernetes.io/dockerconfigjson", (".dockerconfigjson",)),
    ],
)
def test_secret_type_without_a_required_key_is_a_mistake(secret_type: str, required: tuple[str, ...]) -> None:
    assert find_spec_mistake(make_sync(required, type=secret_type)) is None
    for missing in required:
        error = find_spec_mistake(make_sync([*(key for key in required if key != missing), "other"], type=secret_type))
        assert isinstance(error, InputError)
        assert f"type {secret_type} needs the key {missing}" in error.message


@pytest.mark.parametrize("keys", [["username"], ["password"], ["username", "password"], ["password", "other"]])
def test_basic_auth_needs_one_of_its_keys(keys: list[str]) -> None:
    assert find_spec_mistake(make_sync(keys, type="kubernetes.io/basic-auth")) is None
    error = find_spec_mistake(make_sync(["other"], type="kubernetes.io/basic-auth"))
    assert isinstance(error, InputError)
    assert "kubernetes.io/basic-auth needs the key username or password, or both" in error.message


def test_new_basic_auth_secret_waits_for_one_of_its_keys() -> None:
    wanted = make_sync(["username", "password", "other"], type="kubernetes.io/basic-auth")
    given: Given = {"username": MISSING, "password": UNREACHABLE, "other": make_value("x")}
    assert expect_rejection(decide(wanted, given=given)) is MISSING
    assert decode_data(decide(wanted, make_secret_meta(["username", "password", "other"]), given)) == {"other": "x"}
    one = make_sync(["username"], type="kubernetes.io/basic-auth")
    assert decode_data(decide(one, given={"username": make_value("u")})) == {"username": "u"}
    assert expect_rejection(decide(one, given={"username": MISSING})).message == MISSING.message
    assert decode_data(decide(wanted, given={**given, "password": make_value("p")})) == {"password": "p", "other": "x"}


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "canary-77"])
@pytest.mark.parametrize(
    ("secret_type", "key"),
    [("kubernetes.io/dockercfg", ".dockercfg"), ("kubernetes.io/dockerconfigjson", ".dockerconfigjson")],
)
def test_registry_credentials_that_are_not_a_json_object_are_rejected(secret_type: str, key: str, text: str) -> None:
    wanted = make_sync([key], type=secret_type)
    assert decode_data(decide(wanted, given={key: make_value('{"auths": {}}')})) == {key: '{"auths": {}}'}
    for secret in (None, make_secret_meta([key])):
        error = expect_rejection(decide(wanted, secret, given={key: make_value(text)}))
        assert isinstance(error, InputError)
        assert f"the value for {key} is not a JSON object, which type {secret_type} needs" in error.message
        assert "canary" not in error.message


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_registry_credentials_are_rejected_or_written(text: bytes) -> None:
    key = ".dockerconfigjson"
    decision = decide(make_sync([key], type=f"kubernetes.io/{key[1:]}"), given={key: make_value(text)})
    if isinstance(decision, WriteSecret):
        assert text.startswith(b"{")
    else:
        assert "is not a JSON object" in expect_rejection(decision).message


@pytest.mark.parametrize("secret_type", ["Opaque", "example.com/own"])
def test_other_secret_types_accept_any_keys(secret_type: str) -> None:
    assert find_spec_mistake(make_sync(["any"], type=secret_type)) is None


@pytest.mark.parametrize(
    ("labels", "annotations", "mistake"),
    [
        ({"tier": "data"}, {"note": "any text!"}, None),
        ({"tier": "any text!"}, {}, "secretObject.labels: the value 'any text!'"),
        ({}, {"a note": ""}, "secretObject.annotations: the key 'a note'"),
    ],
)
def test_invalid_label_or_annotation_is_a_mistake(
    labels: dict[str, str], annotations: dict[str, str], mistake: str | None
) -> None:
    error = find_spec_mistake(make_sync(labels=labels, annotations=annotations))
    if mistake is None:
        assert error is None
    else:
        assert isinstance(error, InputError)
        assert error.message.startswith(mistake)


@pytest.mark.parametrize("key", ["a/b", "a/0", "/"])
def test_target_key_with_a_slash_is_a_mistake(key: str) -> None:
    error = find_spec_mistake(make_sync(["fine", key]))
    assert isinstance(error, InputError)
    assert f"targetKey {key}:" in error.message


def test_target_key_that_is_mapped_twice_is_a_mistake() -> None:
    wanted = make_sync(["user", "pass"])
    wanted.spec.secret_object.data.append(SecretObjectData(source_path="other", target_key="user"))
    error = find_spec_mistake(wanted)
    assert isinstance(error, InputError)
    assert "targetKey user is mapped 2 times" in error.message


def test_four_thousand_keys_are_checked_within_50_milliseconds() -> None:
    wanted = make_sync([f"key-{number}" for number in range(4096)])

    def check() -> None:
        assert find_spec_mistake(wanted) is None

    assert thread_seconds(check) < 0.05


def test_only_a_new_secret_waits_for_its_required_keys() -> None:
    wanted = make_sync(["tls.crt", "tls.key"], type="kubernetes.io/tls")
    given: Given = {"tls.crt": make_value("certificate"), "tls.key": MISSING}
    assert expect_rejection(decide(wanted, given=given)) is MISSING
    assert decode_data(decide(wanted, make_secret_meta(["tls.crt", "tls.key"]), given)) == {"tls.crt": "certificate"}


@pytest.mark.parametrize(("size", "fits"), [(1_048_575, True), (1_048_576, True), (1_048_577, False)])
def test_secret_of_more_than_one_mebibyte_is_rejected(size: int, fits: bool) -> None:
    decision = decide(given={"user": make_value(b"x"), "pass": make_value(b"y" * (size - 1))})
    if fits:
        assert isinstance(decision, WriteSecret)
    else:
        error = expect_rejection(decision)
        assert isinstance(error, InputError)
        for word in (str(size), "at most 1048576", "split", "largest key is pass", str(size - 1)):
            assert word in error.message


# The message of PartialSync


def test_partial_message_lists_failures_first() -> None:
    message = partial_message({"b": MISSING}, {"a": "path-a", "b": "path-b"})
    assert json.loads(message) == [
        {"targetKey": "b", "sourcePath": "path-b", "status": "failed", "message": MISSING.message},
        {"targetKey": "a", "sourcePath": "path-a", "status": "synced"},
    ]


def test_partial_message_quotes_300_characters_of_an_error() -> None:
    (item,) = json.loads(partial_message({"k": ObjectError("é" * 301)}, {"k": "path"}))
    assert item["message"] == "é" * 300


@pytest.mark.parametrize(("more", "complete"), [(0, True), (1, False)])
def test_partial_message_has_32000_bytes_at_most(more: int, complete: bool) -> None:
    rest = len(partial_message({}, {"k": ""}))
    message = partial_message({}, {"k": "p" * (32_000 - rest + more)})
    assert (len(message) == 32_000) == complete
    if not complete:
        assert json.loads(message) == [{"failed": 0, "keys": 1, "notShown": 1}]


@pytest.mark.parametrize(("failing", "fine", "shown"), [(1000, 0, 22), (1000, 1000, 25), (1, 4095, 54), (4096, 0, 22)])
def test_partial_message_always_fits_and_ends_with_a_count(failing: int, fine: int, shown: int) -> None:
    long = ObjectError('"\\\n' * 400 + "é")
    failed = {f"f{number}".ljust(253, "-"): long for number in range(failing)}
    targets = dict.fromkeys([*failed, *(f"s{number}".ljust(253, "-") for number in range(fine))], "p" * 253)
    message = partial_message(failed, targets)
    assert len(message.encode()) < 32_768
    *items, count = json.loads(message)
    assert count == {"failed": failing, "keys": failing + fine, "notShown": failing + fine - len(items)}
    statuses = [item["status"] for item in items]
    assert statuses == sorted(statuses)  # "failed" comes before "synced"
    assert statuses.count("failed") == min(failing, len(items))
    assert len(items) == shown  # three quarters of the items, until they fit
