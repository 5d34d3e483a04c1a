"""What an AKVSync stands for, row by row of the reference's example; and what is refused, in which words."""

from typing import Any

import msgspec
import pytest

from controller.api.akvsync import MAX_GENERATED, MOST_PARTS, AKVSync
from controller.api.secretsync import SecretSync
from controller.errors import InputError
from controller.objects import read_class
from controller.translate import Generated, translate
from tools import guide

EXAMPLE = msgspec.yaml.decode(guide.AKV_SYNC)["spec"]["objects"]


def akv_sync(objects: str | list[dict[str, Any]]) -> AKVSync:
    """The AKVSync `team/shop` with these objects."""
    made = {
        "metadata": {"name": "shop", "namespace": "team", "uid": "uid-of-the-akvsync"},
        "spec": {
            "keyvaultName": "shop-vault",
            "clientID": "the-client",
            "tenantID": "the-tenant",
            "serviceAccountName": "robot",
            "objects": msgspec.yaml.decode(objects) if isinstance(objects, str) else objects,
        },
    }
    return msgspec.convert(made, AKVSync)


def made(objects: str | list[dict[str, Any]]) -> Generated:
    return translate(akv_sync(objects))


def keys(sync: SecretSync) -> dict[str, str]:
    return {pair.target_key: pair.source_path for pair in sync.spec.secret_object.data}


def described(sync: SecretSync) -> tuple[str, dict[str, str]]:
    return sync.spec.secret_object.type, keys(sync)


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("api-token", "Opaque", {"v0": "api-token"}),
        ("db", "Opaque", {"v0": "db-password/0", "v1": "db-password/1", "v2": "db-password/2"}),
        ("web", "kubernetes.io/tls", {"tls.crt": "web/tls.crt", "tls.key": "web/tls.key"}),
        ("web-old", "Opaque", {"v0": "web-old/0", "v1": "web-old/1"}),
        ("edge-v0", "kubernetes.io/tls", {"tls.crt": "edge/0/tls.crt", "tls.key": "edge/0/tls.key"}),
        ("edge-v1", "kubernetes.io/tls", {"tls.crt": "edge/1/tls.crt", "tls.key": "edge/1/tls.key"}),
        ("deploy-key", "kubernetes.io/ssh-auth", {"ssh-privatekey": "deploy-key"}),
        ("bundle", "Opaque", {"user": "db-user", "previous": "db-password/1", "chain": "web"}),
    ],
)
def test_each_row_of_the_example(name: str, kind: str, data: dict[str, str]) -> None:
    assert described(made(EXAMPLE).syncs[name]) == (kind, data)


def test_the_example_makes_these_and_no_others() -> None:
    generated = made(EXAMPLE)
    assert list(generated.syncs) == ["api-token", "db", "web", "web-old", "edge-v0", "edge-v1", "deploy-key", "bundle"]
    db = generated.syncs["db"].spec.secret_object
    assert (db.labels, db.annotations) == ({"tier": "data"}, {"note": "rotated-weekly"})
    for sync in generated.syncs.values():
        assert (sync.spec.secret_provider_class_name, sync.spec.service_account_name) == ("shop", "robot")


def test_everything_is_owned_by_the_akvsync_without_blocking_its_deletion() -> None:
    generated = made(EXAMPLE)
    for thing in (generated.source, *generated.syncs.values()):
        assert thing.metadata.namespace == "team"
        assert msgspec.to_builtins(thing.metadata)["ownerReferences"] == [
            {
                "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
                "kind": "AKVSync",
                "name": "shop",
                "uid": "uid-of-the-akvsync",
                "controller": True,
            }
        ]


def test_one_class_has_every_object_with_as_many_versions_as_are_needed() -> None:
    source = made(EXAMPLE).source
    assert source.metadata.name == "shop"
    understood = read_class(source)
    assert (understood.vault, understood.client_id, understood.tenant_id) == ("shop-vault", "the-client", "the-tenant")
    assert {item.served_as: (item.type, item.history) for item in understood.objects.values()} == {
        "api-token": ("secret", 1),
        "db-password": ("secret", 3),
        "web": ("secret", 1),
        "web-old": ("secret", 2),
        "edge": ("secret", 2),
        "deploy-key": ("secret", 1),
        "db-user": ("secret", 1),
    }


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        pytest.param(
            "[{secretInAKV: A-Token}]", {"a-token": ("Opaque", {"v0": "A-Token"})}, id="small letters by default"
        ),
        pytest.param(
            "[{secretInAKV: a, versionHistory: 1}]", {"a": ("Opaque", {"v0": "a"})}, id="a history of one is none"
        ),
        pytest.param(
            "[{secretInAKV: a, kubernetesSecretType: kubernetes.io/dockercfg}]",
            {"a": ("kubernetes.io/dockercfg", {".dockercfg": "a"})},
            id="dockercfg",
        ),
        pytest.param(
            "[{secretInAKV: a, kubernetesSecretType: kubernetes.io/dockerconfigjson}]",
            {"a": ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": "a"})},
            id="dockerconfigjson",
        ),
        pytest.param(
            "[{secretInAKV: a, kubernetesSecretType: kubernetes.io/ssh-auth, versionHistory: 2}]",
            {
                "a-v0": ("kubernetes.io/ssh-auth", {"ssh-privatekey": "a/0"}),
                "a-v1": ("kubernetes.io/ssh-auth", {"ssh-privatekey": "a/1"}),
            },
            id="every type with a key of its own has a Secret per version",
        ),
        pytest.param(
            "[{kubernetesSecretName: a, kubernetesSecretType: kubernetes.io/basic-auth, mapping: ["
            "{dataKey: username, secretInAKV: u}, {dataKey: password, secretInAKV: p}]}]",
            {"a": ("kubernetes.io/basic-auth", {"username": "u", "password": "p"})},
            id="basic-auth by a mapping",
        ),
        pytest.param(
            "[{kubernetesSecretName: a, kubernetesSecretType: kubernetes.io/tls, mapping: ["
            "{dataKey: tls.crt, certInAKV: c}, {dataKey: tls.key, certInAKV: c}, {dataKey: ca, secretInAKV: r}]}]",
            {"a": ("kubernetes.io/tls", {"tls.crt": "c", "tls.key": "c", "ca": "r"})},
            id="TLS by a mapping: each key takes its part of the certificate",
        ),
        pytest.param(
            "[{kubernetesSecretName: a, mapping: [{dataKey: k, secretInAKV: s, version: 4}]}]",
            {"a": ("Opaque", {"k": "s/4"})},
            id="an old version alone",
        ),
        pytest.param(
            "[{secretInAKV: web}, {certInAKV: web, kubernetesSecretName: tls, kubernetesSecretType: kubernetes.io/tls}"
            "]",
            {
                "web": ("Opaque", {"v0": "web"}),
                "tls": ("kubernetes.io/tls", {"tls.crt": "web/tls.crt", "tls.key": "web/tls.key"}),
            },
            id="a certificate's value is the secret of its name",
        ),
        pytest.param(
            "[{secretInAKV: s}, {kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s, version: 1}]}]",
            {"s": ("Opaque", {"v0": "s/0"}), "m": ("Opaque", {"k": "s/1"})},
            id="one object's need of versions moves the paths of another's",
        ),
    ],
)
def test_other_rows(objects: str, expected: dict[str, Any]) -> None:
    generated = made(objects)
    assert {name: described(sync) for name, sync in generated.syncs.items()} == expected
    # Each name that a path begins with is there.
    served = read_class(generated.source).objects
    assert {path.split("/")[0] for sync in generated.syncs.values() for path in keys(sync).values()} == served.keys()


def test_as_many_versions_are_asked_for_as_anybody_needs() -> None:
    objects = "[{secretInAKV: s, versionHistory: 3}, {kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s, "
    for version, history in ((1, 3), (6, 7)):
        [one] = read_class(made(f"{objects}version: {version}}}]}}]").source).objects.values()
        assert one.history == history


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            "[{secretInAKV: API-token}, {secretInAKV: api-token}]",
            "secretInAKV API-token and secretInAKV api-token both make a Secret api-token: give one another"
            " kubernetesSecretName",
        ),
        (
            "[{certInAKV: edge, kubernetesSecretType: kubernetes.io/tls, versionHistory: 2}, {secretInAKV: edge-v1}]",
            "certInAKV edge and secretInAKV edge-v1 both make a Secret edge-v1",
        ),
        (
            "[{secretInAKV: m}, {kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s}]}]",
            "secretInAKV m and the mapping of m both make a Secret m",
        ),
        (
            "[{secretInAKV: a, kubernetesSecretType: kubernetes.io/basic-auth}]",
            "secretInAKV a: kubernetes.io/basic-auth needs a mapping with the dataKeys username and password",
        ),
        (
            "[{certInAKV: a, kubernetesSecretType: kubernetes.io/ssh-auth}]",
            "certInAKV a: a certificate becomes a Secret of type Opaque or kubernetes.io/tls",
        ),
        ("[{secretInAKV: a, kubernetesSecretType: example.com/x}]", "kubernetesSecretType example.com/x is none of"),
        ("[{secretInAKV: a, versionHistory: 0}]", "secretInAKV a: versionHistory is 0: expected 1 to 500"),
        ("[{secretInAKV: a, versionHistory: 501}]", "secretInAKV a: versionHistory is 501: expected 1 to 500"),
        (
            "[{kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s, version: 500}]}]",
            "the mapping of m: version of dataKey k is 500: expected 0 to 499",
        ),
        ("[{secretInAKV: a, certInAKV: a}]", "write exactly one of secretInAKV, certInAKV and mapping"),
        ("[{kubernetesSecretName: a}]", "the mapping of a: write exactly one of"),
        ("[{kubernetesSecretName: a, mapping: [{dataKey: k}]}]", "dataKey k needs exactly one of secretInAKV and"),
        (
            "[{kubernetesSecretName: a, mapping: [{dataKey: k, secretInAKV: s, certInAKV: s}]}]",
            "dataKey k needs exactly one of secretInAKV and certInAKV",
        ),
        ("[{mapping: [{dataKey: k, secretInAKV: s}]}]", "the mapping of no name: nothing is no Secret's name"),
        ("[{secretInAKV: a-}]", "secretInAKV a-: a- is no Secret's name: set kubernetesSecretName"),
        (f"[{{secretInAKV: a, kubernetesSecretName: {'a' * 254}}}]", "is no Secret's name"),
        (
            "[{certInAKV: a, kubernetesSecretType: kubernetes.io/tls, versionHistory: 257}]",
            f"this makes 257 Secrets, and an AKVSync may have {MOST_PARTS}: split it",
        ),
    ],
)
def test_what_is_refused_is_told_in_words(objects: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        made(objects)
    assert message in refused.value.message


@pytest.mark.parametrize(("history", "fits"), [(15, True), (17, False)])
def test_bytes_that_an_akvsync_generates_are_bounded(history: int, fits: bool) -> None:
    """Sixteen Secrets of 128 KiB each are the bound: the labels and annotations of one object go into each of them."""
    note = "x" * (MAX_GENERATED // 16)
    objects = (
        f"[{{secretInAKV: small}}, {{certInAKV: big, kubernetesSecretType: kubernetes.io/tls,"
        f" versionHistory: {history}, annotations: {{note: {note}}}}}]"
    )
    if fits:
        assert len(made(objects).syncs) == history + 1
        return
    with pytest.raises(InputError) as refused:
        made(objects)
    assert refused.value.message == (
        f"the {history + 1} SecretSyncs that this makes have more than 2097152 bytes together, the limit of an AKVSync:"
        " shorten labels and annotations of certInAKV big, lower its versionHistory, or split the AKVSync"
    )
