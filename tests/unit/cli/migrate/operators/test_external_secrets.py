"""Test tools/migrate external-secrets: the result for ExternalSecrets, or the reason for none."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.external_secrets_manifests import (
    ALL_MANIFESTS,
    CLIENT,
    TENANT,
    VERSION,
    make_account,
    make_cluster_external_secret,
    make_external_secret,
    make_key,
    make_namespace,
    make_store,
)
from tests.unit.cli.migrate.operators.mutations import VALUES, list_places, mutate_documents
from tools.cli.migrate import migrate
from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.operators.external_secrets.conversion import convert_objects as convert
from tools.cli.migrate.operators.external_secrets.template import parse as parse_template
from tools.cli.migrate.operators.report import EXTERNAL_SECRETS, build_report
from tools.cli.migrate.operators.result import ConversionOptions, ConversionResult


def run_migration(*objects: Manifest, **options: Any) -> ConversionResult:
    return convert([make_account(), *objects], ConversionOptions(**options))


def join_notes(found: ConversionResult) -> str:
    return "\n".join(map(str, sorted(found.notes)))


def get_spec(found: ConversionResult) -> Any:
    (made,) = found.manifests
    assert made["kind"] == "AKVSync"
    return made["spec"]


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1", "v1"])
def test_external_secret_of_every_version_becomes_an_akvsync(version: str) -> None:
    found = run_migration(
        make_store(version=version),
        make_external_secret(make_key("user", "db-user"), make_key("password", "secret/db-password"), version=version),
    )
    assert found.notes == []
    (made,) = found.manifests
    assert made["metadata"] == {"name": "db", "namespace": "shop"}
    assert made["spec"] == {
        "keyvaultName": "shop-vault",
        "clientID": CLIENT,
        "tenantID": TENANT,
        "serviceAccountName": "reader",
        "objects": [
            {
                "kubernetesSecretName": "db",
                "mapping": [
                    {"dataKey": "user", "secretInAKV": "db-user"},
                    {"dataKey": "password", "secretInAKV": "db-password"},
                ],
            }
        ],
    }
    ((identity, vault),) = found.roles
    assert (identity.subject, vault) == ("system:serviceaccount:shop:reader", "shop-vault")


def test_labels_of_the_external_secret_or_of_its_template_are_kept() -> None:
    plain = make_external_secret(make_key("a", "a"))
    plain["metadata"] |= {"labels": {"tier": "data"}, "annotations": {"kubectl.kubernetes.io/x": "y"}}
    assert get_spec(run_migration(make_store(), plain))["objects"][0]["labels"] == {"tier": "data"}
    plain["spec"]["target"] = {"template": {"metadata": {"labels": {"own": "1"}, "annotations": {"helm.sh/x": "y"}}}}
    found = run_migration(make_store(), plain)
    assert get_spec(found)["objects"][0]["labels"] == {"own": "1"}
    assert "the annotation 'helm.sh/x' belongs to another tool" in join_notes(found)


@pytest.mark.parametrize(
    ("template_data", "wanted"),
    [
        ({"p": "{{ .a }}"}, [{"dataKey": "p", "secretInAKV": "x"}]),
        ({"p": "{{.a|toString}}"}, [{"dataKey": "p", "secretInAKV": "x"}]),
        ({"p": '{{ index . "a" }}'}, [{"dataKey": "p", "secretInAKV": "x"}]),
        ({"p": "{{ .a | b64dec }}"}, [{"dataKey": "p", "secretInAKV": "x", "encoding": "base64"}]),
        ({"p": "{{ .a | toString | b64dec }}"}, [{"dataKey": "p", "secretInAKV": "x", "encoding": "base64"}]),
    ],
)
def test_template_that_only_renames_keys_is_converted(template_data: dict[str, str], wanted: Any) -> None:
    found = run_migration(
        make_store(), make_external_secret(make_key("a", "x"), target={"template": {"data": template_data}})
    )
    assert get_spec(found)["objects"][0]["mapping"] == wanted


def test_value_that_is_decoded_twice_is_not_carried_over() -> None:
    target = {"template": {"data": {"p": "{{ .a | b64dec }}"}}}
    found = run_migration(
        make_store(), make_external_secret(make_key("a", "x", decodingStrategy="Base64"), target=target)
    )
    assert found.manifests == []
    assert "key 'p': its template has no counterpart" in join_notes(found)


def test_template_with_many_pipes_does_not_backtrack() -> None:
    text = "{{ .a" + " |  a  a " * 7 + "!}}"
    started = time.process_time()
    assert parse_template(text) is None
    assert time.process_time() - started < 1


def test_template_that_merges_keeps_the_other_keys() -> None:
    target = {"template": {"data": {"p": "{{ .a }}"}, "mergePolicy": "Merge"}}
    found = run_migration(make_store(), make_external_secret(make_key("a", "x"), make_key("b", "y"), target=target))
    assert [each["dataKey"] for each in get_spec(found)["objects"][0]["mapping"]] == ["a", "b", "p"]


@pytest.mark.parametrize(
    ("crt", "tls_key"),
    [
        ("{{ .pfx | b64dec | pkcs12cert }}", "{{ .pfx | b64dec | pkcs12key }}"),
        ('{{ .pfx | filterPEM "CERTIFICATE" }}\n', '{{ .pfx | filterPEM "PRIVATE KEY" }}\n'),
    ],
)
def test_template_that_splits_a_certificate_becomes_a_tls_secret(crt: str, tls_key: str) -> None:
    template = {"type": "kubernetes.io/tls", "data": {"tls.crt": crt, "tls.key": tls_key}}
    found = run_migration(make_store(), make_external_secret(make_key("pfx", "web"), target={"template": template}))
    (made,) = get_spec(found)["objects"]
    assert made["kubernetesSecretType"] == "kubernetes.io/tls"
    assert {each["dataKey"]: each["secretInAKV"] for each in made["mapping"]} == {"tls.crt": "web", "tls.key": "web"}


def test_private_key_of_a_tls_secret_can_have_another_form() -> None:
    # The value in the vault can be PKCS#8. This controller writes PKCS#1 or SEC 1 into a Secret of this type.
    keys = make_key("tls.crt", "a"), make_key("tls.key", "b")
    target = {"template": {"type": "kubernetes.io/tls"}}
    assert "key 'tls.key': the private key has the same numbers" in join_notes(
        run_migration(make_store(), make_external_secret(*keys, target=target))
    )
    assert join_notes(run_migration(make_store(), make_external_secret(*keys))) == ""


def test_parts_of_a_certificate_in_an_opaque_secret_become_a_class() -> None:
    target = {"template": {"data": {"chain.pem": "{{ .pfx | b64dec | pkcs12cert }}"}}}
    source, sync = run_migration(make_store(), make_external_secret(make_key("pfx", "web"), target=target)).manifests
    assert source["kind"] == "SecretProviderClass"
    assert sync["spec"]["secretObject"]["data"] == [{"sourcePath": "web/tls.crt", "targetKey": "chain.pem"}]


def test_object_named_null_is_read() -> None:
    source, _ = run_migration(
        make_store(), make_external_secret(make_key("a", "null", version=VERSION), make_key("b", "null"))
    ).manifests
    assert source["kind"] == "SecretProviderClass"
    assert source["spec"]["parameters"]["objects"].count('objectName: "null"\n') == 2


@pytest.mark.parametrize(
    ("ref", "line"),
    [
        ({"version": VERSION}, f"objectVersion: {VERSION}"),
        ({"version": VERSION, "decodingStrategy": "Base64"}, "objectEncoding: base64"),
        ({"version": VERSION, "property": "a.b"}, "objectProperty: 'a.b'"),
    ],
)
def test_source_that_an_akvsync_cannot_express_becomes_a_class(ref: dict[str, str], line: str) -> None:
    found = run_migration(make_store(), make_external_secret(make_key("a", "x", **ref), make_key("b", "x")))
    assert found.notes == []
    source, sync = found.manifests
    assert (source["kind"], sync["kind"]) == ("SecretProviderClass", "SecretSync")
    assert line in source["spec"]["parameters"]["objects"]
    assert sync["spec"]["secretObject"]["data"] == [
        {"sourcePath": "x", "targetKey": "a"},
        {"sourcePath": "x.2", "targetKey": "b"},
    ]


@pytest.mark.parametrize(
    ("ref", "fields"),
    [
        ({"decodingStrategy": "Base64"}, {"encoding": "base64"}),
        ({"property": "database.password"}, {"property": "database.password"}),
        ({"property": r"tls\.crt", "decodingStrategy": "Base64"}, {"property": r"tls\.crt", "encoding": "base64"}),
    ],
)
def test_properties_and_encodings_are_mapped(ref: dict[str, str], fields: dict[str, str]) -> None:
    found = run_migration(make_store(), make_external_secret(make_key("a", "x", **ref)))
    assert found.notes == []
    assert get_spec(found)["objects"][0]["mapping"] == [{"dataKey": "a", "secretInAKV": "x", **fields}]


@pytest.mark.parametrize(
    ("version", "given"),
    [("v1", {"extract": {"key": "x"}}), ("v1beta1", {"extract": {"key": "secret/x"}}), ("v1alpha1", {"key": "x"})],
)
def test_extract_is_expanded(version: str, given: Manifest) -> None:
    found = run_migration(
        make_store(version=version), make_external_secret(version=version, data=None, dataFrom=[given])
    )
    assert found.notes == []
    assert get_spec(found)["objects"] == [{"kubernetesSecretName": "db", "secretInAKV": "x", "expand": True}]
    assert (
        run_migration(make_store(), make_external_secret(dataFrom=[given]), classes=True).manifests == found.manifests
    )


@pytest.mark.parametrize(
    ("regexp", "conditions"),
    [
        ("^shop-", {"namePrefix": "shop-"}),
        (r"^shop\-.*", {"namePrefix": "shop-"}),
        ("^shop-.*$", {"namePrefix": "shop-"}),
        ("^shop$", {"namePattern": "shop"}),
        ("-db$", {"namePattern": "*-db"}),
        ("db", {"namePattern": "*db*"}),
        ("^a.b.+c$", {"namePattern": "a?b?*c"}),
        (".*", {}),
        ("", {}),
    ],
)
def test_find_becomes_a_selection(regexp: str, conditions: dict[str, str]) -> None:
    find = {"name": {"regexp": regexp}, "tags": {"app": "shop"}}
    found = run_migration(make_store(), make_external_secret(data=None, dataFrom=[{"find": find}]))
    (made,) = get_spec(found)["objects"]
    assert made == {"kubernetesSecretName": "db", "select": {**conditions, "tags": {"app": "shop"}}}


@pytest.mark.parametrize("rewrite", [("^shop-", ""), ("^shop-(.*)", "$1"), ("^shop-(.+)$", "${1}")])
def test_rewrite_that_removes_a_prefix_is_kept(rewrite: tuple[str, str]) -> None:
    given = {
        "find": {"name": {"regexp": "^shop-"}},
        "rewrite": [{"regexp": {"source": rewrite[0], "target": rewrite[1]}}],
    }
    (made,) = get_spec(run_migration(make_store(), make_external_secret(data=None, dataFrom=[given])))["objects"]
    assert (made["select"], made["stripPrefix"]) == ({"namePrefix": "shop-"}, "shop-")


def test_another_cloud_becomes_a_class_with_its_name() -> None:
    cloud = {"environmentType": "USGovernmentCloud", "vaultUrl": "https://shop-vault.vault.usgovcloudapi.net/"}
    source, _ = run_migration(make_store(**cloud), make_external_secret(make_key("a", "x"))).manifests
    assert source["spec"]["parameters"]["cloudName"] == "AzureUSGovernmentCloud"


def test_option_creates_classes_instead_of_akvsyncs() -> None:
    source, sync = run_migration(make_store(), make_external_secret(make_key("a", "x")), classes=True).manifests
    assert "objectFormat: pfx" in source["spec"]["parameters"]["objects"]
    assert sync["metadata"]["name"] == "db"


def test_option_creates_secrets_beside_the_old_ones() -> None:
    found = run_migration(make_store(), make_external_secret(make_key("a", "x")), beside=True)
    assert get_spec(found)["objects"][0]["kubernetesSecretName"] == "db-akv"
    page = build_report(found, EXTERNAL_SECRETS, "")
    assert "shop/db becomes db-akv" in page
    assert "--cascade" not in page
    assert page.index("kubectl wait secretsync/db-akv") < page.index("kubectl delete externalsecret db")


def test_existing_class_of_the_same_name_is_not_taken_over() -> None:
    meta = {"name": "db", "namespace": "shop"}
    taken = {"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": meta}
    (made,) = run_migration(make_store(), make_external_secret(make_key("a", "x")), taken).manifests
    assert made["metadata"]["name"] == "db-akv"


def make_akvsync(*names: str) -> Manifest:
    objects = [{"kubernetesSecretName": name, "secretInAKV": "x"} for name in names]
    meta = {"name": "db", "namespace": "shop"}
    return {
        "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
        "kind": "AKVSync",
        "metadata": meta,
        "spec": {"objects": objects},
    }


@pytest.mark.parametrize(
    ("made", "name"), [(["db"], "db"), (["db", "other"], "db-akv"), (["other"], "db-akv"), ([], "db-akv")]
)
def test_only_an_akvsync_of_an_earlier_run_is_overwritten(made: list[str], name: str) -> None:
    meta = {"name": "db", "namespace": "shop"}
    generated = {"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": meta}
    found = run_migration(make_store(), make_external_secret(make_key("a", "x")), make_akvsync(*made), generated)
    assert [each["metadata"]["name"] for each in found.manifests] == [name]


def test_partial_conversion_can_run_again() -> None:
    part = make_external_secret(make_key("a", "x"), make_key("t", "cert/x"))
    assert (
        run_migration(make_store(), part, make_akvsync("db-akv")).manifests
        == run_migration(make_store(), part).manifests
    )


GENERATOR = {"generatorRef": {"kind": "Password", "name": "p"}}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (make_external_secret(make_key("a", "x", metadataPolicy="Fetch")), "tags cannot become values"),
        (make_external_secret(make_key("a", "cert/x")), "is DER there"),
        (make_external_secret(make_key("a", "key/x")), "is a JSON Web Key there"),
        (make_external_secret(make_key("a", "blob/x")), "is not the name of an object in Key Vault"),
        (make_external_secret(make_key("a", "a/b/c")), "is not the name of an object in Key Vault"),
        (make_external_secret(make_key("a", "x", version="3")), "32 hexadecimal digits"),
        (make_external_secret(make_key("a", "x", decodingStrategy="Auto")), "decodingStrategy Auto"),
        (make_external_secret(make_key("a", "x", property="a.#.b")), "more than names with dots"),
        (make_external_secret(make_key("a", "x", property="a|@reverse")), "more than names with dots"),
        (make_external_secret(make_key("a", "x", property="p" * 129)), "more than names with dots"),
        (
            make_external_secret(make_key("a", "x"), dataFrom=[{"extract": {"key": "y"}}]),
            "several entries of data and dataFrom",
        ),
        (make_external_secret(dataFrom=[{"extract": {"key": "y", "property": "a"}}]), "map them one by one"),
        (
            make_external_secret(dataFrom=[{"extract": {"key": "y", "conversionStrategy": "Unicode"}}]),
            "conversionStrategy Unicode has no counterpart",
        ),
        (make_external_secret(dataFrom=[{"extract": {"key": "y"}, "rewrite": [{}]}]), "map them one by one"),
        (make_external_secret(dataFrom=[{"extract": {"key": "cert/y"}}]), "is not the name of a secret"),
        (make_external_secret(dataFrom=[{"find": {"name": {"regexp": "^(a|b)"}}}]), "more than letters, digits"),
        (make_external_secret(dataFrom=[{"find": {"name": {"regexp": "[a]"}}}]), "more than letters, digits"),
        (make_external_secret(dataFrom=[{"find": {"name": {"regexp": "a" * 121}}}]), "more than letters, digits"),
        (make_external_secret(dataFrom=[{"find": {"decodingStrategy": "Auto"}}]), "decodingStrategy Auto"),
        (
            make_external_secret(dataFrom=[{"find": {}, "rewrite": [{"regexp": {"source": "a", "target": ""}}]}]),
            "its rewrite",
        ),
        (make_external_secret(dataFrom=[{"find": {}, "rewrite": [{"transform": {}}]}]), "its rewrite"),
        (
            make_external_secret(
                dataFrom=[{"extract": {"key": "y"}}], target={"template": {"data": {"p": "{{ .a }}"}}}
            ),
            "its template uses what dataFrom finds",
        ),
        (
            make_external_secret(
                dataFrom=[{"extract": {"key": "y"}}], target={"template": {"type": "kubernetes.io/tls"}}
            ),
            "expand",
        ),
        (make_external_secret(make_key("a/b", "x")), "targetKey a/b"),
        (make_external_secret(), "neither data nor dataFrom"),
        (make_external_secret(dataFrom=[{"sourceRef": GENERATOR}]), "generators have no counterpart"),
        (make_external_secret({**make_key("a", "x"), "sourceRef": GENERATOR}), "generators have no counterpart"),
        (
            make_external_secret(dataFrom=[{"extract": {"key": "x", "metadataPolicy": "Fetch"}}]),
            "tags cannot become values",
        ),
        (make_external_secret(make_key("a", "x"), target={"creationPolicy": "Merge"}), "writes only whole Secrets"),
        (make_external_secret(make_key("a", "x"), target={"creationPolicy": "None"}), "writes no Secret"),
        (
            make_external_secret(make_key("a", "x"), target={"manifest": {"kind": "ConfigMap"}}),
            "an object that is not a Secret",
        ),
        (make_external_secret(make_key("a", "x"), target={"name": "No"}), "'No' is not a Secret's name"),
        (
            make_external_secret(make_key("a", "x"), target={"template": {"data": {"p": "x={{ .a }}"}}}),
            "its template has no",
        ),
        (
            make_external_secret(make_key("a", "x"), target={"template": {"data": {"p": "x"}}}),
            "the constant in its template",
        ),
        (
            make_external_secret(make_key("a", "x"), target={"template": {"data": {"p": "{{ .b }}"}}}),
            "its template has no",
        ),
        (
            make_external_secret(make_key("a", "x"), target={"template": {"templateFrom": [{}]}}),
            "templateFrom has no counterpart",
        ),
        (
            make_external_secret(make_key("a", "x"), target={"template": {"type": "kubernetes.io/tls"}}),
            "needs the key tls.crt",
        ),
        (
            make_external_secret(make_key("a", "x"), secretStoreRef={"name": "other"}),
            "SecretStore shop/other is not among",
        ),
        (make_external_secret(make_key("a", "x"), secretStoreRef=None), "it has no reference to a store: give --vault"),
        (make_external_secret(make_key(5, "x")), "$.spec.data[0].secretKey"),  # type: ignore[arg-type]
        (make_external_secret(make_key("a", "x"), version="v2"), "the version v2 is not one of"),
        (make_external_secret("x"), "$.spec.data[0]"),
    ],
)
def test_source_that_cannot_be_converted_is_explained(source: Manifest, words: str) -> None:
    found = run_migration(make_store(), source)
    assert not found.manifests
    assert not found.takeovers
    assert "ExternalSecret shop/db: is not carried over: " in join_notes(found)
    assert words in join_notes(found)


@pytest.mark.parametrize(
    ("target", "spec", "words"),
    [
        ({"deletionPolicy": "Delete"}, {}, "deletionPolicy Delete has no counterpart"),
        ({"immutable": True}, {}, "immutable has no counterpart"),
        ({}, {"refreshInterval": "0"}, "updates it from the vault"),
        ({}, {"refreshInterval": "0h0m0s"}, "updates it from the vault"),
        ({}, {"refreshPolicy": "CreatedOnce"}, "updates it from the vault"),
        ({"creationPolicy": "Orphan"}, {}, "the Secret is deleted with its AKVSync"),
        ({}, {"syncWindows": {"kind": "deny"}}, "syncWindows has no counterpart"),
        ({"template": {"metadata": {"finalizers": ["x/y"]}}}, {}, "finalizers"),
        ({"later": 1}, {}, "spec.target.later is not known here"),
    ],
)
def test_changed_behaviour_is_reported(target: Any, spec: Any, words: str) -> None:
    found = run_migration(make_store(), make_external_secret(make_key("a", "x"), target=target, **spec))
    assert len(found.manifests) == 1
    assert words in join_notes(found)


@pytest.mark.parametrize(
    ("changed", "options", "client", "words"),
    [
        ({"authType": "ManagedIdentity", "identityId": "id-1", "tenantId": "t"}, {}, "id-1", "federate it with"),
        ({"authType": "ManagedIdentity", "tenantId": "t"}, {}, "", "no client id is known"),
        ({"authType": None, "tenantId": "t"}, {}, "", "service principal's credential"),
        ({"authType": None, "tenantId": "t"}, {"client_id": "id-2"}, "id-2", "revoke the credential"),
        ({"authSecretRef": {"clientId": {"name": "s"}}}, {"client_id": "id-3"}, "id-3", ""),
        ({"serviceAccountRef": None, "tenantId": "t"}, {"client_id": "id-4"}, "id-4", "give --service-account"),
        ({"serviceAccountRef": {"name": "other"}, "tenantId": "t"}, {}, "", "no client id is known"),
        ({"serviceAccountRef": {"name": "other"}}, {"client_id": "id-5"}, "", "no tenant is known"),
        ({"authType": "Other"}, {}, "", "authType 'Other'"),
        ({"vaultUrl": "http://shop-vault.vault.azure.net"}, {}, "", "give --vault"),
        ({"vaultUrl": "https://x.managedhsm.azure.net"}, {}, "", "give --vault"),
        ({"vaultUrl": "https://a.b.vault.azure.net"}, {}, "", "give --vault"),
        ({"vaultUrl": "https://[::1"}, {}, "", "give --vault"),
        ({"vaultUrl": "{{ .Values.url }}"}, {"vault": "given"}, CLIENT, ""),
        ({"environmentType": "AzureStackCloud"}, {}, "", "chart's `clouds`"),
        ({"customCloudConfig": {}}, {}, "", "chart's `clouds`"),
        ({"later": 1}, {}, CLIENT, "azurekv.later is not known here"),
        ({"vaultUrl": 5}, {}, "", "does not have the form of its kind"),
    ],
)
def test_authentication_is_converted_or_explained(changed: Any, options: Any, client: str, words: str) -> None:
    found = run_migration(make_store(**changed), make_external_secret(make_key("a", "x")), **options)
    assert words in join_notes(found)
    assert [identity.client_id for identity, _ in found.roles] == ([client] if client else [])
    assert len(found.manifests) == (1 if client else 0)


def test_every_key_that_cannot_be_converted_is_named() -> None:
    keys = [make_key(f"k{number}", "cert/x") for number in range(7)]
    for fine in ([], [make_key("fine", "x")]):
        (note,) = run_migration(make_store(), make_external_secret(*keys, *fine)).notes
        assert note.text.count("is DER there") == 5
        assert "key 'k0'" in note.text
        assert note.text.endswith("; and 2 more keys")


OTHER_STORE = {"sourceRef": {"storeRef": {"name": "other"}}}
CONVERTIBLE_KEY = make_key("fine", "y")


@pytest.mark.parametrize(
    ("source", "words", "lost"),
    [
        (
            make_external_secret(CONVERTIBLE_KEY, make_key("a", "x", metadataPolicy="Fetch")),
            "tags cannot become values",
            ["a"],
        ),
        (make_external_secret(make_key("a", "cert/x"), CONVERTIBLE_KEY), "is DER there", ["a"]),
        (make_external_secret(CONVERTIBLE_KEY, make_key("a", "key/x")), "is a JSON Web Key there", ["a"]),
        (
            make_external_secret(CONVERTIBLE_KEY, make_key("a", "blob/x")),
            "is not the name of an object in Key Vault",
            ["a"],
        ),
        (make_external_secret(CONVERTIBLE_KEY, make_key("a", "x", version="3")), "32 hexadecimal digits", ["a"]),
        (
            make_external_secret(CONVERTIBLE_KEY, make_key("a", "x", decodingStrategy="Auto")),
            "decodingStrategy Auto",
            ["a"],
        ),
        (
            make_external_secret(CONVERTIBLE_KEY, make_key("a", "x", property="a.#.b")),
            "more than names with dots",
            ["a"],
        ),
        (
            make_external_secret(CONVERTIBLE_KEY, {**make_key("a", "x"), "sourceRef": GENERATOR}),
            "generators have no counterpart",
            ["a"],
        ),
        (
            make_external_secret(CONVERTIBLE_KEY, {**make_key("a", "x"), **OTHER_STORE}),
            "another vault or identity than the key 'fine'",
            ["a"],
        ),
        (
            make_external_secret(CONVERTIBLE_KEY, {**make_key("a", "x"), "sourceRef": {"storeRef": {"name": "no"}}}),
            "is not among",
            ["a"],
        ),
        (make_external_secret(CONVERTIBLE_KEY, make_key("a/b", "x")), "targetKey a/b", ["a/b"]),
        (make_external_secret(CONVERTIBLE_KEY, make_key("fine", "x"), make_key("a", "cert/x")), "is DER there", ["a"]),
        (make_external_secret(CONVERTIBLE_KEY, make_key("a", "x"), make_key("a", "cert/x")), "is DER there", ["a"]),
        (
            make_external_secret(
                CONVERTIBLE_KEY, target={"template": {"data": {"fine": "{{ .fine }}", "a": "x={{ .fine }}"}}}
            ),
            "its template has no counterpart",
            ["a"],
        ),
        (
            make_external_secret(
                CONVERTIBLE_KEY, target={"template": {"data": {"fine": "{{ .fine }}", "a": "constant"}}}
            ),
            "the constant in its template",
            ["a"],
        ),
        (
            make_external_secret(
                CONVERTIBLE_KEY,
                make_key("t", "cert/x"),
                target={"template": {"data": {"fine": "{{ .fine }}", "a": "{{ .t }}"}}},
            ),
            "its template uses the key 't': cert/x is DER there",
            ["a"],
        ),
        (
            make_external_secret(
                CONVERTIBLE_KEY,
                make_key("t", "cert/x"),
                target={"template": {"mergePolicy": "Merge", "data": {"a": "a"}}},
            ),
            "is DER there",
            ["t", "a"],
        ),
        (
            make_external_secret(CONVERTIBLE_KEY, dataFrom=[{"sourceRef": GENERATOR}]),
            "dataFrom[0]: generators have no counterpart",
            [],
        ),
    ],
)
def test_secret_that_would_lose_a_key_is_created_beside_the_old_one(
    source: Manifest, words: str, lost: list[str]
) -> None:
    other = make_store(vaultUrl="https://other-vault.vault.azure.net")
    other["metadata"]["name"] = "other"
    found = run_migration(make_store(), other, source)
    (made,) = get_spec(found)["objects"]
    assert made["kubernetesSecretName"] == "db-akv"
    assert [each["dataKey"] for each in made["mapping"]] == ["fine"]
    assert not found.takeovers
    (partial,) = found.partial
    assert (partial.name, partial.new_name) == ("db", "db-akv")
    note = join_notes(found)
    assert "is carried over in part: db-akv beside the Secret db has the other keys" in note
    assert words in note
    assert all(f"key {name!r}: " in note for name in lost)
    assert "key 'fine'" not in note.replace("the key 'fine'", "")
    page = build_report(found, EXTERNAL_SECRETS, "")
    # No command of the report deletes the ExternalSecret or changes the Secret.
    assert "kubectl delete" not in page
    assert "kubectl patch" not in page
    assert "shop/db, of externalsecret db, beside it db-akv" in page
    assert "kubectl wait secretsync/db-akv" in page
    assert "still writes Secrets for externalsecret shop/db" in page


def test_key_that_a_template_leaves_out_is_not_lost() -> None:
    target = {"template": {"data": {"p": "{{ .fine }}"}}}
    found = run_migration(make_store(), make_external_secret(CONVERTIBLE_KEY, make_key("t", "cert/x"), target=target))
    assert found.notes == []
    assert len(found.takeovers) == 1


def test_convertible_entry_of_data_from_becomes_another_secret() -> None:
    entries = [{"extract": {"key": "x"}}, {"sourceRef": GENERATOR}]
    found = run_migration(
        make_store(),
        make_external_secret(make_key("a", "cert/x"), data=None, dataFrom=entries),
        make_external_secret(name="ok", dataFrom=entries[:1]),
    )
    assert [each["spec"]["objects"][0]["kubernetesSecretName"] for each in found.manifests] == ["db-akv", "ok"]
    assert [(each.name, each.new_name) for each in found.takeovers] == [("ok", "ok")]
    page = build_report(found, EXTERNAL_SECRETS, "")
    assert "kubectl delete externalsecret ok" in page
    assert "kubectl delete externalsecret db" not in page
    assert "Keep it, its stores and its credentials" in page


def test_type_whose_required_key_is_lost_is_explained_with_that_key() -> None:
    template = {"type": "kubernetes.io/tls", "data": {"tls.crt": "{{ .pfx | b64dec | pkcs12cert }}", "tls.key": "x"}}
    found = run_migration(make_store(), make_external_secret(make_key("pfx", "web"), target={"template": template}))
    assert not found.manifests
    assert "key 'tls.key': the constant in its template" in join_notes(found)
    assert "needs the key tls.key" in join_notes(found)
    assert "still writes Secrets for externalsecret shop/db" in build_report(found, EXTERNAL_SECRETS, "")


def test_secret_beside_the_old_one_has_a_unique_name() -> None:
    part = make_external_secret(CONVERTIBLE_KEY, make_key("a", "cert/x"))
    found = run_migration(make_store(), part, make_external_secret(CONVERTIBLE_KEY, name="db-akv"))
    assert {
        each["metadata"]["name"]: each["spec"]["objects"][0]["kubernetesSecretName"] for each in found.manifests
    } == {
        "db": "db-akv-akv",
        "db-akv": "db-akv",
    }
    assert run_migration(make_store(), part, make_external_secret(CONVERTIBLE_KEY, name="db-akv"), beside=True).notes


def test_store_of_another_provider_is_not_converted() -> None:
    found = run_migration(make_store(provider={"aws": {}}), make_external_secret(make_key("a", "x")))
    assert found.manifests == []
    assert "its provider aws is not azurekv" in join_notes(found)


def test_cluster_store_gives_each_namespace_its_own_account() -> None:
    ref = {"name": "reader", "namespace": "ops"}
    objects = [make_account("ops"), make_store("ClusterSecretStore", serviceAccountRef=ref, tenantId=TENANT)]
    found = convert(
        [
            *objects,
            make_external_secret(make_key("a", "x"), secretStoreRef={"name": "vault", "kind": "ClusterSecretStore"}),
        ],
        ConversionOptions(),
    )
    ((identity, _),) = found.roles
    assert (identity.subject, identity.client_id) == ("system:serviceaccount:shop:reader", CLIENT)
    assert "create reader in shop" in join_notes(found)


def test_keys_of_several_vaults_are_explained() -> None:
    other = make_store(vaultUrl="https://other-vault.vault.azure.net")
    other["metadata"]["name"] = "other"
    second = {**make_key("b", "y"), "sourceRef": {"storeRef": {"name": "other"}}}
    found = run_migration(make_store(), other, make_external_secret(make_key("a", "x"), second))
    assert "key 'b': it comes from another vault or identity than the key 'a'" in join_notes(found)


def test_two_external_secrets_for_one_secret_are_explained() -> None:
    found = run_migration(
        make_store(),
        make_external_secret(make_key("a", "x")),
        make_external_secret(make_key("b", "y"), name="other", target={"name": "db"}),
    )
    assert len(found.manifests) == 1
    assert (
        "ExternalSecret shop/other: is not carried over: ExternalSecret shop/db writes the same Secret"
        in join_notes(found)
    )


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"namespaces": ["one", "two"]}, ["one", "two"]),
        ({"namespaceSelector": {"matchLabels": {"team": "a"}}}, ["one", "two"]),
        ({"namespaceSelectors": [{"matchLabels": {"env": "test"}}, {"matchLabels": {"env": "dev"}}]}, ["one", "two"]),
        ({"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "In", "values": ["dev"]}]}}, ["two"]),
        ({"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}}, ["three"]),
        ({"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "?"}]}}, []),
        ({}, []),
    ],
)
def test_cluster_external_secret_becomes_one_akvsync_per_namespace(spec: Any, wanted: list[str]) -> None:
    objects = [
        make_store("ClusterSecretStore", tenantId=TENANT),
        make_cluster_external_secret(**spec),
        make_namespace("one", team="a", env="test"),
        make_namespace("two", team="a", env="dev"),
        make_namespace("three"),
    ]
    found = run_migration(*objects, client_id=CLIENT)
    assert [each["metadata"]["namespace"] for each in found.manifests] == wanted
    assert {each.parent.name for each in found.takeovers if each.parent} == ({"all"} if wanted else set())
    if not wanted:
        assert "its namespaces are not known" in join_notes(found)
    elif "namespaceSelector" in spec:
        assert "selects namespaces by label" in join_notes(found)


NAME_LABEL = "kubernetes.io/metadata.name"


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ({"matchLabels": {NAME_LABEL: "one"}}, ["one"]),
        ({"matchLabels": {NAME_LABEL: "new"}}, ["new"]),
        ({"matchExpressions": [{"key": NAME_LABEL, "operator": "In", "values": ["one", "new"]}]}, ["new", "one"]),
        (
            {
                "matchLabels": {NAME_LABEL: "one"},
                "matchExpressions": [{"key": NAME_LABEL, "operator": "NotIn", "values": ["one"]}],
            },
            [],
        ),
        ({"matchLabels": {NAME_LABEL: "one", "team": "a"}}, ["one"]),
        ({"matchLabels": {NAME_LABEL: "new", "team": "a"}}, []),
        ({"matchExpressions": [{"key": NAME_LABEL, "operator": "Exists"}]}, ["one", "two"]),
        ({"matchExpressions": [{"key": NAME_LABEL, "operator": "NotIn", "values": ["two"]}]}, ["one"]),
    ],
)
def test_selector_by_the_name_of_a_namespace_finds_it(selector: Manifest, wanted: list[str]) -> None:
    """The API server gives each namespace this label. Files of namespaces do not have it."""
    objects = [
        make_store("ClusterSecretStore", tenantId=TENANT),
        make_cluster_external_secret(namespaceSelectors=[selector]),
        make_namespace("one", team="a"),
        make_namespace("two"),
    ]
    found = run_migration(*objects, client_id=CLIENT)
    assert [each["metadata"]["namespace"] for each in found.manifests] == wanted


@pytest.mark.parametrize("listed", [False, True])
def test_cluster_external_secret_is_kept_without_a_takeover(listed: bool) -> None:
    data = [make_key("a", "x"), make_key("t", "x", metadataPolicy="Fetch")]
    part = make_cluster_external_secret(namespaces=["one"])
    part["spec"]["externalSecretSpec"]["data"] = data
    ref = {"name": "vault", "kind": "ClusterSecretStore"}
    child = make_external_secret(*data, name="all", secretStoreRef=ref)
    child["metadata"]["namespace"] = "one"
    objects = [
        make_store(),
        make_store("ClusterSecretStore", tenantId=TENANT),
        make_external_secret(make_key("a", "x")),
        part,
    ]
    found = run_migration(*objects, *([child] if listed else []), client_id=CLIENT)
    assert [(each.namespace, each.name) for each in found.takeovers] == [("shop", "db")]
    assert [(each.namespace, each.new_name) for each in found.partial] == [("one", "all-akv")]
    assert "kubectl delete clusterexternalsecret" not in build_report(found, EXTERNAL_SECRETS, "")


def test_cluster_external_secret_cannot_recreate_external_secrets() -> None:
    objects = [
        make_store("ClusterSecretStore", tenantId=TENANT),
        make_cluster_external_secret(namespaces=["one", "two"]),
    ]
    for beside in (False, True):
        page = build_report(run_migration(*objects, client_id=CLIENT, beside=beside), EXTERNAL_SECRETS, "")
        parent = page.index("kubectl delete clusterexternalsecret all --cascade=orphan")
        assert parent < page.index("kubectl delete externalsecret all --namespace one")
        if beside:
            assert page.index("kubectl wait secretsync/all-akv --namespace two") < parent
        else:
            assert page.index("kubectl patch secret all --namespace two") < parent


def test_deletion_of_a_cluster_external_secret_deletes_no_secret() -> None:
    # From 0.20 on, External Secrets deletes the ExternalSecrets itself, and their Secrets if deletionPolicy is Delete.
    whole = make_cluster_external_secret(namespaces=["one", "two"])
    whole["spec"]["externalSecretSpec"]["target"] = {"deletionPolicy": "Delete"}
    found = run_migration(make_store("ClusterSecretStore", tenantId=TENANT), whole, client_id=CLIENT)
    page = build_report(found, EXTERNAL_SECRETS, "")
    steps = [
        "kubectl patch clusterexternalsecret all --type=merge --patch "
        """'{"spec":{"externalSecretSpec":{"target":{"deletionPolicy":"Retain"}}}}'""",
        "kubectl wait externalsecret/all --namespace one '--for=jsonpath={.spec.target.deletionPolicy}=Retain'",
        "kubectl wait externalsecret/all --namespace two '--for=jsonpath={.spec.target.deletionPolicy}=Retain'",
        "kubectl patch secret all --namespace one",
        "kubectl patch secret all --namespace two",
        "kubectl delete clusterexternalsecret all --cascade=orphan",
        "kubectl delete externalsecret all --namespace one --cascade=orphan --ignore-not-found",
    ]
    assert [page.index(step) for step in steps] == sorted(page.index(step) for step in steps)
    assert "kubectl patch externalsecret" not in page
    assert page.count("kubectl patch clusterexternalsecret") == 1


@pytest.mark.parametrize("beside", [False, True])
def test_cluster_external_secret_with_a_lost_secret_stays(beside: bool) -> None:
    # Its deletion would delete the Secret in the namespace without a store.
    whole = make_cluster_external_secret(namespaces=["one", "two"])
    whole["spec"]["externalSecretSpec"]["secretStoreRef"] = {"name": "vault", "kind": "SecretStore"}
    store = make_store(tenantId=TENANT)
    store["metadata"]["namespace"] = "one"
    found = run_migration(store, make_store(), make_external_secret(make_key("a", "x")), whole,
                          client_id=CLIENT, beside=beside)  # fmt: skip
    assert [each.namespace for each in found.takeovers] == ["shop"]
    assert [(each.namespace, each.name) for each in found.remaining] == [("one", "all"), ("two", "all")]
    assert "two/all: is not carried over: SecretStore two/vault is not among the manifests" in join_notes(found)
    assert "one/all: is not carried over: ClusterExternalSecret all would be deleted, and with it the Secret of" in (
        join_notes(found)
    )
    assert "delete clusterexternalsecret" not in build_report(found, EXTERNAL_SECRETS, "")


def test_external_secret_of_a_cluster_external_secret_is_converted_once() -> None:
    made = make_external_secret(make_key("a", "x"), name="all")
    found = run_migration(
        make_store(),
        make_store("ClusterSecretStore", tenantId=TENANT),
        made,
        make_cluster_external_secret(namespaces=["shop"]),
        client_id=CLIENT,
    )
    assert len(found.manifests) == 1


@pytest.mark.parametrize(
    ("api_version", "kind", "words"),
    [
        ("external-secrets.io/v1alpha1", "PushSecret", "only reads the vault"),
        ("external-secrets.io/v1alpha1", "ClusterPushSecret", "only reads the vault"),
        ("generators.external-secrets.io/v1alpha1", "Password", "generators have no counterpart"),
        ("external-secrets.io/v1", "Later", "the kind Later is not known"),
    ],
)
def test_kinds_without_a_counterpart_are_explained(api_version: str, kind: str, words: str) -> None:
    found = run_migration({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "namespace": "shop"}})
    assert words in join_notes(found)


def test_takeover_order_leaves_no_gap() -> None:
    found = run_migration(
        make_store(), make_external_secret(make_key("a", "x"), target={"deletionPolicy": "Delete", "name": "s"})
    )
    page = build_report(found, EXTERNAL_SECRETS, "https://issuer.example")
    steps = [
        "kubectl apply --filename manifests.yaml",
        """kubectl patch externalsecret db --namespace shop --type=merge --patch '{"spec":""",
        "kubectl delete externalsecret db --namespace shop --cascade=orphan",
        "kubectl patch secret s --namespace shop --type=merge --patch",
        "kubectl wait akvsync/db --namespace shop --for=condition=Ready",
    ]
    assert [page.index(step) for step in steps] == sorted(page.index(step) for step in steps)
    assert "--issuer https://issuer.example --subject system:serviceaccount:shop:reader" in page
    assert 'az role assignment create --role "Key Vault Secrets User"' in page


def test_files_folders_and_standard_input_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "manifests" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text(yaml.safe_dump_all([make_account(), {"kind": "List", "items": [make_store()]}]))
    (folder / "b.json").write_text(json.dumps(make_external_secret(make_key("a", "x"))))
    (folder / "notes.txt").write_text("{")
    out = tmp_path / "out"
    assert migrate.main(["external-secrets", str(tmp_path / "manifests"), "--output", str(out)]) == 0
    assert "1 manifests, 0 patches, 0 notes" in capsys.readouterr().out
    assert (out / "REPORT.md").read_text().startswith("# From External Secrets to this controller")
    assert migrate.main(["external-secrets", "-f", str(tmp_path / "manifests"), "--output", str(out)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    (folder / "template.yaml").write_text("a: {{ .Values.x }}\n{{- if }}")
    assert migrate.main(["external-secrets", "-f", str(folder)]) == 1
    printed = capsys.readouterr()
    assert [each["kind"] for each in yaml.safe_load_all(printed.out)] == ["AKVSync"]
    assert "template.yaml: left out: cannot be read: line 2" in printed.err
    given = yaml.safe_dump_all([make_account(), make_store(), make_external_secret(make_key("a", "x"))])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    assert migrate.main(["external-secrets", "-f", "-"]) == 0
    assert [each["kind"] for each in yaml.safe_load_all(capsys.readouterr().out)] == ["AKVSync"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", 2, "no manifest"),
        ("a: [", 2, "left out: cannot be read"),
        ("[" * 5000, 2, "nested too deeply"),
        ("- 1", 2, "is not a Kubernetes object"),
        ("{kind: ExternalSecret, apiVersion: external-secrets.io/v1, metadata: {name: ../x}}", 2, "is not the name of"),
        ("{kind: ExternalSecret, metadata: {name: x, namespace: A}}", 2, "is not a namespace's name"),
        ("{kind: ExternalSecret, apiVersion: external-secrets.io/v1, metadata: {name: x}}", 1, "neither data nor"),
        ("{kind: ExternalSecret, apiVersion: external-secrets.io/v1, metadata: {name: x}, spec: 5}", 1, "$.spec"),
    ],
)
def test_invalid_input_is_reported_in_one_line(
    text: str, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.yaml").write_text(text)
    assert migrate.main(["external-secrets", str(tmp_path / "in.yaml")]) == code
    assert words in capsys.readouterr().err
    assert migrate.main(["external-secrets"]) == 2
    assert migrate.main(["external-secrets", str(tmp_path / "none.yaml")]) == 2


def test_duplicate_object_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [
        make_account(),
        make_store(),
        make_external_secret(make_key("a", "x")),
        make_external_secret(make_key("a", "x")),
        make_external_secret(make_key("b", "y")),
    ]
    (tmp_path / "in.yaml").write_text(yaml.safe_dump_all(documents))
    assert migrate.main(["external-secrets", str(tmp_path / "in.yaml")]) == 1
    assert "document 5: left out: there is another ExternalSecret shop/db before it" in capsys.readouterr().err


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(list_places(ALL_MANIFESTS)), VALUES, st.booleans())
def test_mutated_manifests_are_converted_or_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: tuple[Any, ...], value: Any, beside: bool
) -> None:
    """Check that each manifest is converted or explained, and that the output is printable."""
    documents = mutate_documents(ALL_MANIFESTS, where, value)
    (tmp_path / "in.yaml").write_text(yaml.safe_dump_all(documents, allow_unicode=False))
    code = migrate.main(
        ["external-secrets", str(tmp_path / "in.yaml"), "--client-id", "c", *(["--beside"] if beside else [])]
    )
    printed = capsys.readouterr()
    assert code in (0, 1, 2)
    assert all(each.isprintable() or each == "\n" for each in printed.out + printed.err)
    if code != 2:
        # An object that lost its kind or its name is reported with its file.
        for number, name in ((2, "shop/db"), (3, "shop/many")):
            lost = where[0] == number and where[1:2] in ((), ("kind",), ("metadata",))
            assert lost or name in printed.err
