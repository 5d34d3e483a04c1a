"""Test that tools/migrate csi makes nothing that the API server or the controller would refuse, and says why."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.akvsync.expand import expand_akvsync
from controller.api.akvsync import MAX_MAPPED, AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain import decision, reserved
from controller.domain.provider_class import ProviderConfig, read_class
from tests.support.csi_manifests import join_notes, make_class, make_workload, migrate_manifests, select_kind
from tools.cli.migrate import migrate
from tools.cli.migrate.migration import Migration
from tools.cli.migrate.objects import Manifest

TLS, DOCKER = "kubernetes.io/tls", "kubernetes.io/dockerconfigjson"
HISTORY = "objectName: a; objectVersionHistory: 2"


def make_secret(*pairs: tuple[str, str], kind: str = "Opaque", **fields: Any) -> Manifest:
    return {"secretName": "s", "type": kind, "data": [{"objectName": a, "key": b} for a, b in pairs], **fields}


def assert_accepted(understood: ProviderConfig, sync: SecretSync) -> None:
    wanted = sync.spec.secret_object
    assert wanted.data
    assert understood.wanted(wanted)
    assert decision.find_spec_mistake(sync) is None
    assert reserved.find_reserved(sync.metadata.name, wanted.labels, wanted.annotations) is None


def assert_all_accepted(found: Migration) -> None:
    """Fail if the controller would refuse one of the manifests."""
    classes = {
        each["metadata"]["name"]: read_class(msgspec.convert(each, SecretProviderClass))
        for each in select_kind(found, "SecretProviderClass")
    }
    for each in select_kind(found, "SecretSync"):
        sync = msgspec.convert(each, SecretSync)
        assert_accepted(classes[sync.spec.secret_provider_class_name], sync)
    for each in select_kind(found, "AKVSync"):
        assert all(0 < len(item["mapping"]) <= MAX_MAPPED for item in each["spec"]["objects"])
        made = expand_akvsync(msgspec.convert(each, AKVSync))
        assert made.source
        for sync in made.syncs.values():
            assert_accepted(read_class(made.source), sync)


@pytest.mark.parametrize(
    ("item", "wanted", "words"),
    [
        (
            "objectName: a; objectType: cert",
            make_secret(("a", "tls.crt"), ("a", "tls.key"), kind=TLS),
            "give a objectT",
        ),
        ("objectName: a", make_secret(("a", "tls.crt"), kind=TLS), "needs the key tls.key"),
        ("objectName: a", make_secret(("a", "x"), kind=DOCKER), "needs the key .dockerconfigjson"),
        ("objectName: a", make_secret(("a", "x"), ("a", "x")), "targetKey x is mapped 2 times"),
        (HISTORY, make_secret(("a/9", "x")), "so write a/0 to a/1"),
        (HISTORY, make_secret(("a", "x")), "so write a/0 to a/1"),
        ("objectName: a", make_secret(("a", "x"), labels={"x": "not a value"}), "its labels x are left out"),
        ("objectName: a", make_secret(), "it has no data"),
    ],
)
def test_secretobject_that_would_be_refused_gets_a_note(item: str, wanted: Manifest, words: str) -> None:
    found = migrate_manifests(make_class(item, secret_objects=[wanted]))
    assert words in join_notes(found)
    assert_all_accepted(found)
    assert_all_accepted(migrate.combine_into_akvsyncs(found))


def test_labels_that_other_tools_obey_are_left_out_with_a_note() -> None:
    labels = {"app.kubernetes.io/managed-by": "Helm", "app": "web"}
    annotations = {"argocd.argoproj.io/sync-wave": "1", "note": "n"}
    wanted = make_secret(("a", "x"), labels=labels, annotations=annotations)
    found = migrate_manifests(make_class("objectName: a", secret_objects=[wanted]))
    assert_all_accepted(found)
    (sync,) = select_kind(found, "SecretSync")
    assert sync["spec"]["secretObject"]["labels"] == {"app": "web"}
    assert sync["spec"]["secretObject"]["annotations"] == {"note": "n"}
    assert "secretObject s: its labels app.kubernetes.io/managed-by are left out" in join_notes(found)
    assert "secretObject s: its annotations argocd.argoproj.io/sync-wave are left out" in join_notes(found)


@pytest.mark.parametrize(
    ("parameters", "labels"),
    [({}, {"argocd.argoproj.io/instance": "shop", "app": "web"}), ({"usePodIdentity": "true"}, {"app": "web"})],
)
def test_new_class_has_no_label_by_which_a_tool_prunes(parameters: dict[str, str], labels: dict[str, str]) -> None:
    spc = make_class(**parameters)
    spc["metadata"]["labels"] = {"argocd.argoproj.io/instance": "shop", "app": "web"}
    (kept,) = select_kind(migrate_manifests(spc), "SecretProviderClass")
    assert kept["metadata"]["labels"] == labels


def test_separate_files_of_certificate_and_key_are_carried_over() -> None:
    wanted = make_secret(("a.crt", "tls.crt"), ("a.key", "tls.key"), kind=TLS)
    found = migrate_manifests(make_class("objectName: a", secret_objects=[wanted]))
    (sync,) = select_kind(found, "SecretSync")
    assert sync["metadata"]["name"] == "s"
    assert [pair["sourcePath"] for pair in sync["spec"]["secretObject"]["data"]] == ["a.crt", "a.key"]
    assert_all_accepted(found)


def test_white_space_that_the_csi_driver_ignores_is_ignored() -> None:
    wanted = {"secretName": " s ", "type": f" {TLS}\n", "data": [{"objectName": " a ", "key": " tls.crt "}]}
    wanted["data"].append({"objectName": "a", "key": "tls.key"})  # type: ignore[attr-defined]
    found = migrate_manifests(make_class("objectName: a", secret_objects=[wanted]))
    (sync,) = select_kind(found, "SecretSync")
    assert sync["metadata"]["name"] == "s"
    assert sync["spec"]["secretObject"]["type"] == TLS
    assert sync["spec"]["secretObject"]["data"][0] == {"sourcePath": "a", "targetKey": "tls.crt"}


def test_class_without_a_readable_object_is_not_converted() -> None:
    found = migrate_manifests(make_class("objectName: a; objectType: password"), make_workload())
    assert found.manifests == []
    assert found.patches == []
    assert "cannot be converted: none of its objects can be read" in join_notes(found)


@pytest.mark.parametrize(
    ("spc", "words"),
    [
        (make_class("objectName: a", secret_objects=[make_secret(("a", "x"), kind="opaque")]), "opaque is none of"),
        (make_class(*(f"objectName: a{number}" for number in range(MAX_MAPPED + 1))), "more than 100 keys of app"),
        (make_class("objectName: a; objectFormat: pfx"), "objectFormat pfx of a"),
        (make_class("objectName: a; objectKeep: true"), "objectKeep of a"),
    ],
)
def test_class_that_an_akvsync_would_refuse_stays_a_class(spc: Manifest, words: str) -> None:
    found = migrate_manifests(spc)
    combined = migrate.combine_into_akvsyncs(found)
    assert combined.manifests == found.manifests
    assert words in join_notes(combined)


def test_encoding_and_property_are_carried_over_into_an_akvsync() -> None:
    spc = make_class("objectName: a; objectEncoding: base64", "objectName: b; objectAlias: c; objectProperty: x.y")
    (made,) = migrate.combine_into_akvsyncs(migrate_manifests(spc)).manifests
    assert made["spec"]["objects"][0]["mapping"] == [
        {"dataKey": "a", "secretInAKV": "a", "encoding": "base64"},
        {"dataKey": "c", "secretInAKV": "b", "property": "x.y"},
    ]


ITEMS = st.lists(
    st.sampled_from(
        [
            "objectName: a",
            HISTORY,
            "objectName: b; objectType: cert",
            "objectName: c; objectAlias: dir/c",
            "objectName: d; objectFormat: pfx",
            "objectName: e; objectEncoding: hex",
            "objectName: f; objectType: nothing",
            "objectName: a; objectType: key",
        ]
    ),
    min_size=1,
    max_size=4,
)
PATHS = st.sampled_from(
    ["a", "a/0", "a/1", "a/7", "a.crt", "a/tls.key", "b", "dir/c", "d", "d.key", "e", "f", "gone", ""]
)
KEYS = st.sampled_from(["tls.crt", "tls.key", ".dockerconfigjson", "username", "k", "a b", ""])
LABELS = st.dictionaries(
    st.sampled_from(["app", "app.kubernetes.io/managed-by", "owner", "argocd.argoproj.io/instance", "a b"]),
    st.sampled_from(["", "helm", "Helm", "not a value"]),
)
SECRETS = st.builds(
    make_secret,
    st.tuples(PATHS, KEYS),
    st.tuples(PATHS, KEYS),
    kind=st.sampled_from(["Opaque", "opaque", "", TLS, DOCKER, "kubernetes.io/basic-auth", "example.com/any"]),
    labels=LABELS,
    annotations=LABELS,
)


@settings(max_examples=300, deadline=None)
@given(ITEMS, SECRETS, st.booleans())
def test_every_manifest_of_a_migration_is_accepted(items: list[str], secret: Manifest, is_mounted: bool) -> None:
    found = migrate_manifests(make_class(*items, secret_objects=[secret]), *([make_workload()] if is_mounted else []))
    assert_all_accepted(found)
    assert_all_accepted(migrate.combine_into_akvsyncs(found))
    assert found.notes or select_kind(found, "SecretSync")
