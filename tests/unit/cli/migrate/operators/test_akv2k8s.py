"""Test tools/migrate akv2k8s: the result for AzureKeyVaultSecrets and injected variables, or the reason for none."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.akv2k8s_manifests import ALL_MANIFESTS, VERSION_ID, make_output, make_source, make_workload
from tests.unit.cli.migrate.operators.mutations import VALUES, list_places, mutate_documents
from tools.cli.migrate import migrate
from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.operators.akv2k8s.conversion import convert_objects as convert
from tools.cli.migrate.operators.akv2k8s.kinds import VERSIONS
from tools.cli.migrate.operators.report import AKV2K8S, build_report
from tools.cli.migrate.operators.result import ConversionOptions, ConversionResult
from tools.cli.migrate.workloads import TEMPLATES

IDENTITY_OPTIONS = ("--client-id", "client-1", "--tenant-id", "tenant-1", "--service-account", "reader")


def run_migration(*objects: Manifest, **options: Any) -> ConversionResult:
    given = {"client_id": "client-1", "tenant_id": "tenant-1", "service_account": "reader"} | options
    return convert(objects, ConversionOptions(**given))


def join_notes(found: ConversionResult) -> str:
    return "\n".join(map(str, sorted(found.notes)))


def get_mapping(found: ConversionResult) -> dict[str, str]:
    (made,) = found.manifests
    (item,) = made["spec"]["objects"]
    return {entry["dataKey"]: entry["secretInAKV"] for entry in item["mapping"]}


@pytest.mark.parametrize("number", [0, 1])
def test_secret_that_would_lose_a_key_is_created_beside_the_old_one(number: int) -> None:
    fine = make_source(name="fine", secret=make_output(dataKey="fine"))
    lost = make_source("key", name=("a", "z")[number], secret=make_output(dataKey="lost"))
    alone = make_source(name="alone", secret=make_output("t"))
    found = run_migration(fine, lost, alone)
    made = {each["metadata"]["name"]: each["spec"]["objects"][0]["mapping"] for each in found.manifests}
    assert made == {
        "s-akv": [{"dataKey": "fine", "secretInAKV": "x"}],
        "t": [{"dataKey": "k", "secretInAKV": "x"}],
    }
    assert (
        "s-akv beside the Secret s has the other keys, and s is not taken over, because it would lose keys. "
        in join_notes(found)
    )
    assert f"AzureKeyVaultSecret {('a', 'z')[number]}: akv2k8s writes the modulus of a key as bytes" in join_notes(
        found
    )
    page = build_report(found, AKV2K8S, "")
    assert page.count("kubectl delete azurekeyvaultsecret") == 1
    assert "kubectl delete azurekeyvaultsecret alone" in page
    # The controller of akv2k8s is stopped during the takeover, and runs again afterwards.
    assert page.index("--replicas=0") < page.index("kubectl delete") < page.index("--replicas=1")


@pytest.mark.parametrize("version", VERSIONS)
def test_secret_of_every_version_becomes_an_akvsync(version: str) -> None:
    given = make_source(version=version, secret=make_output())
    given["metadata"] |= {"labels": {"tier": "data"}, "annotations": {"kubectl.kubernetes.io/x": "y"}}
    found = run_migration(given)
    assert found.notes == []
    (made,) = found.manifests
    assert made["metadata"] == {"name": "s", "namespace": "shop"}
    assert made["spec"] == {
        "keyvaultName": "shop-vault",
        "clientID": "client-1",
        "tenantID": "tenant-1",
        "serviceAccountName": "reader",
        "objects": [
            {
                "kubernetesSecretName": "s",
                "labels": {"tier": "data"},
                "mapping": [{"dataKey": "k", "secretInAKV": "x"}],
            }
        ],
    }


@pytest.mark.parametrize(
    ("kind", "of", "wanted"),
    [
        ("kubernetes.io/dockerconfigjson", "secret", [".dockerconfigjson"]),
        ("kubernetes.io/dockercfg", "secret", [".dockercfg"]),
        ("kubernetes.io/ssh-auth", "secret", ["ssh-privatekey"]),
        ("kubernetes.io/tls", "secret", ["tls.crt", "tls.key"]),
        ("kubernetes.io/tls", "certificate", ["tls.crt", "tls.key"]),
    ],
)
def test_secret_of_each_type_has_the_keys_of_the_type(kind: str, of: str, wanted: list[str]) -> None:
    found = run_migration(make_source(of, secret=make_output(type=kind, chainOrder="ensureserverfirst")))
    assert get_mapping(found) == dict.fromkeys(wanted, "x")
    assert found.manifests[0]["spec"]["objects"][0]["kubernetesSecretType"] == kind


def test_several_sources_of_one_secret_become_one_akvsync() -> None:
    found = run_migration(
        make_source(name="a", secret=make_output(dataKey="one")),
        make_source(name="b", secret=make_output(dataKey="two"), object_name="y"),
    )
    assert get_mapping(found) == {"one": "x", "two": "y"}
    (takeover,) = found.takeovers
    assert [each.name for each in takeover.sources] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (make_source(secret=make_output(), object_version=VERSION_ID), f"objectVersion: {VERSION_ID}"),
        (make_source("certificate", secret=make_output()), "objectType: cert"),
    ],
)
def test_source_that_an_akvsync_cannot_express_becomes_a_class(given: Manifest, line: str) -> None:
    found = run_migration(given)
    assert found.notes == []
    assert line in found.manifests[0]["spec"]["parameters"]["objects"]
    assert found.manifests[1]["spec"]["secretObject"]["data"] == [{"sourcePath": "x", "targetKey": "k"}]


@pytest.mark.parametrize(
    "given",
    [
        make_source(secret=make_output(), transform=["base64decode"]),
        make_source(secret=make_output(), transforms=["trim", "base64decode"], version="v1alpha1"),
    ],
)
def test_base64_transform_becomes_an_encoding(given: Manifest) -> None:
    (made,) = run_migration(given).manifests[0]["spec"]["objects"]
    assert made["mapping"] == [{"dataKey": "k", "secretInAKV": "x", "encoding": "base64"}]


def test_transform_before_a_certificate_is_kept() -> None:
    tls = make_output(type="kubernetes.io/tls")
    (made,) = run_migration(make_source(secret=tls, transform=["base64decode"])).manifests
    assert [each["encoding"] for each in made["spec"]["objects"][0]["mapping"]] == ["base64", "base64"]
    found = run_migration(make_source(secret=tls, transform=["base64encode"]))
    assert "the transforms base64encode have no counterpart" in join_notes(found)
    # akv2k8s transforms only secrets.
    (made,) = run_migration(make_source("certificate", secret=tls, transform=["base64encode"])).manifests
    assert "encoding" not in str(made)


def test_multi_key_value_is_expanded() -> None:
    (made,) = run_migration(make_source("multi-key-value-secret", secret=make_output())).manifests[0]["spec"]["objects"]
    assert made == {"kubernetesSecretName": "s", "secretInAKV": "x", "expand": True}
    basic = make_source(secret=make_output(type="kubernetes.io/basic-auth", dataKey=""))
    (made,) = run_migration(basic).manifests[0]["spec"]["objects"]
    assert made == {
        "kubernetesSecretName": "s", "kubernetesSecretType": "kubernetes.io/basic-auth", "secretInAKV": "x",
    }  # fmt: skip


def test_multi_key_value_cannot_share_a_secret() -> None:
    found = run_migration(
        make_source("multi-key-value-secret", secret=make_output()),
        make_source(name="b", secret=make_output(dataKey="l")),
    )
    assert not found.manifests
    assert join_notes(found).count("one of them becomes several keys") == 2


def test_injected_property_is_mapped() -> None:
    found = run_migration(make_source("multi-key-value-secret"), make_workload(A="db@azurekeyvault?a.b"))
    (made,) = found.manifests[0]["spec"]["objects"]
    assert made["mapping"] == [{"dataKey": "a.b", "secretInAKV": "x", "property": r"a\.b"}]


def test_certificate_without_its_key_needs_the_reader_role() -> None:
    page = build_report(run_migration(make_source("certificate", secret=make_output())), AKV2K8S, "")
    assert 'az role assignment create --role "Key Vault Reader"' in page
    assert "Secrets User" not in page


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (make_source("key", secret=make_output()), "the modulus of a key as bytes"),
        (make_source("multi-key-value-secret", secret=make_output(type="x/y")), "needs type Opaque"),
        (
            make_source("multi-key-value-secret", secret=make_output(), object_version=VERSION_ID),
            "an old or encoded version",
        ),
        (make_source("blob", secret=make_output()), "the object type 'blob'"),
        (make_source("certificate", secret=make_output(type="Opaque")), "writes a whole certificate"),
        (
            make_source(secret=make_output(type="kubernetes.io/basic-auth"), transform=["base64decode"]),
            "an old or encoded",
        ),
        (make_source(secret=make_output(dataKey="")), "no dataKey"),
        (make_source(secret=make_output(dataKey="a b")), "dataKey a b"),
        (make_source(secret=make_output("No")), "'No' is not a Secret's name"),
        (make_source(secret=make_output(), object_name="a/b"), "'a/b' is not the name of an object"),
        (make_source(secret=make_output(), object_version="7"), "32 hexadecimal digits"),
        (make_source(secret=make_output(), transform=["trim"]), "the transforms trim"),
        (make_source(secret=make_output(), transform=["base64decode", "base64decode"]), "the transforms"),
        (make_source(secret={"name": 5}), "$.spec.output.secret.name"),
        (make_source(version="v3", secret=make_output()), "the version v3 is not one of"),
        (make_source(), "writes no Secret, and no workload"),
        (make_source(configMap=make_output("c")), "writes the ConfigMap c"),
    ],
)
def test_source_that_cannot_be_converted_is_explained(given: Manifest, words: str) -> None:
    found = run_migration(given)
    assert not found.manifests
    assert not found.takeovers
    assert "AzureKeyVaultSecret shop/db: " in join_notes(found)
    assert words in join_notes(found)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (make_source(name="b", secret=make_output()), "two AzureKeyVaultSecrets write the key k"),
        (make_source(name="b", secret=make_output(dataKey="l", type="x/y")), "several types"),
    ],
)
def test_secret_that_cannot_be_merged_is_explained_at_each_source(second: Manifest, words: str) -> None:
    found = run_migration(make_source(secret=make_output()), second)
    assert found.manifests == []
    assert join_notes(found).count(words) == 2


def test_missing_or_unsupported_identity_is_reported() -> None:
    found = run_migration(make_source(secret=make_output()), client_id="")
    assert found.manifests == []
    assert "give --client-id and --tenant-id" in join_notes(found)
    given = make_source(secret=make_output())
    given["spec"]["vault"]["azureIdentity"] = {"name": "other"}
    assert "azureIdentity other is not supported" in join_notes(run_migration(given))
    identity = {"apiVersion": "spv.no/v1alpha1", "kind": "AzureKeyVaultIdentity", "metadata": {"name": "i"}}
    assert "federate that identity with a ServiceAccount instead" in join_notes(run_migration(identity))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_injected_variable_is_read_from_a_secret(kind: str) -> None:
    found = run_migration(make_source(), make_workload(kind, TOKEN="db@azurekeyvault", PLAIN="plain"))
    assert get_mapping(found) == {"value": "x"}
    assert found.manifests[0]["spec"]["objects"][0]["kubernetesSecretName"] == "db"
    (patch,) = found.patches
    node: Any = patch
    for step in (*TEMPLATES[kind], "spec"):
        node = node[step]
    ref = {"name": "db", "key": "value"}
    assert node == {
        "containers": [{"name": "web", "env": [{"name": "TOKEN", "value": None, "valueFrom": {"secretKeyRef": ref}}]}]
    }
    assert ("create it again" in join_notes(found)) == (kind in ("Job", "Pod"))
    assert found.takeovers == []


def test_secret_of_injected_values_does_not_reuse_a_synced_name() -> None:
    found = run_migration(
        make_source(name="s"),
        make_source(secret=make_output()),
        make_source("certificate", name="cert"),
        make_workload(init=True, A="s@azurekeyvault", B="cert@azurekeyvault?tls.key", C="cert@azurekeyvault"),
    )
    assert found.notes == []
    assert {each["metadata"]["name"] for each in found.manifests} == {"s", "s-env", "cert"}
    (patch,) = found.patches
    pods = patch["spec"]["template"]["spec"]
    assert pods["initContainers"] == pods["containers"]
    refs = [each["valueFrom"]["secretKeyRef"] for each in pods["containers"][0]["env"]]
    assert [(each["name"], each["key"]) for each in refs] == [
        ("s-env", "value"), ("cert", "tls.key"), ("cert", "tls.crt"),
    ]  # fmt: skip
    page = build_report(found, AKV2K8S, "")
    assert page.index("kubectl wait akvsync/s-env") < page.index("kubectl patch deployment web")
    assert page.index("kubectl patch deployment web") < page.index("kubectl delete azurekeyvaultsecret db")


@pytest.mark.parametrize(
    ("given", "value", "words"),
    [
        (make_source(), "other@azurekeyvault", "AzureKeyVaultSecret shop/other is not among the manifests"),
        (make_source(), "db@azurekeyvault?x/y", "is not NAME@azurekeyvault"),
        (make_source(), "db@azurekeyvault?username", "as two secrets in the vault"),
        (make_source(), "db@azurekeyvault?other", "a secret has no 'other'"),
        (make_source("certificate"), "db@azurekeyvault?raw", "are not a text"),
        (make_source("key"), "db@azurekeyvault", "the modulus of a key as bytes"),
        (make_source("multi-key-value-secret"), "db@azurekeyvault", "names no property"),
        (make_source(object_version="7"), "db@azurekeyvault", "32 hexadecimal digits"),
    ],
)
def test_variable_that_cannot_be_converted_is_explained(given: Manifest, value: str, words: str) -> None:
    found = run_migration(given, make_workload(TOKEN=value))
    assert found.manifests == found.patches == []
    assert "Deployment shop/web: " in join_notes(found)
    assert words in join_notes(found)


@pytest.mark.parametrize("kind", ["ConfigMap", "Rollout"])
def test_value_that_is_injected_elsewhere_is_reported(kind: str) -> None:
    other = {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "env", "namespace": "shop"},
        "data": {"TOKEN": "db@azurekeyvault", "PLAIN": "plain"},
        "spec": {"containers": [{"env": [{"name": "A", "value": "db@azurekeyvault?x"}]}]},
    }
    found = run_migration(make_source(), other)
    assert [each.text.partition(" in it stays")[0] for each in sorted(found.notes)] == [
        "db@azurekeyvault", "db@azurekeyvault?x",
    ]  # fmt: skip
    assert "delete it" not in join_notes(found)


def test_controller_stops_before_a_source_is_deleted() -> None:
    page = build_report(run_migration(make_source(secret=make_output())), AKV2K8S, "")
    steps = [
        "kubectl apply --filename manifests.yaml",
        "kubectl scale deployment akv2k8s-controller --namespace akv2k8s --replicas=0",
        "kubectl delete azurekeyvaultsecret db --namespace shop --cascade=orphan",
        "kubectl patch secret s --namespace shop --type=merge --patch",
    ]
    assert [page.index(step) for step in steps] == sorted(page.index(step) for step in steps)


def test_command_reads_a_file_and_writes_the_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.yaml").write_text(yaml.safe_dump_all([make_source(), make_workload(A="db@azurekeyvault")]))
    out = tmp_path / "out"
    assert migrate.main(["akv2k8s", str(tmp_path / "in.yaml"), *IDENTITY_OPTIONS, "--output", str(out)]) == 0
    assert "1 manifests, 1 patches, 0 notes" in capsys.readouterr().out
    patch = yaml.safe_load((out / "patches" / "deployment-shop-web.yaml").read_text())
    assert patch["spec"]["template"]["spec"]["containers"][0]["name"] == "web"
    assert migrate.main(["akv2k8s", str(tmp_path / "in.yaml")]) == 1
    assert "give --client-id" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--tenant-id", "--client-id", "--service-account", "--namespace"])
def test_invalid_option_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        migrate.main(["akv2k8s", "x.yaml", option, "a;b"])
    assert ended.value.code == 2
    assert f"argument {option}" in capsys.readouterr().err.replace("-n/", "")


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list_places(ALL_MANIFESTS)), VALUES)
def test_mutated_manifests_are_converted_or_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: tuple[Any, ...], value: Any
) -> None:
    """Check that each manifest is converted or explained, and that the output is printable."""
    (tmp_path / "in.yaml").write_text(
        yaml.safe_dump_all(mutate_documents(ALL_MANIFESTS, where, value), allow_unicode=False)
    )
    code = migrate.main(["akv2k8s", str(tmp_path / "in.yaml"), *IDENTITY_OPTIONS])
    printed = capsys.readouterr()
    assert code in (0, 1, 2)
    assert all(each.isprintable() or each == "\n" for each in printed.out + printed.err)
    if code != 2:
        for number, name in ((0, "shop/db"), (1, "shop/web"), (2, "shop/env"), (5, "shop/c")):
            lost = where[0] == number and where[1:2] in ((), ("kind",), ("metadata",))
            assert lost or name in printed.err or f"azurekeyvaultsecret {name.partition('/')[2]} " in printed.err
