"""Test the pages: run each command and apply each manifest, from top to bottom."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.chart import registry
from tests.support.certificates import encode_pem_bundle, issue_certificate
from tests.support.cluster import other_operators, skopeo
from tests.support.cluster.page_runner import PageRunner
from tests.support.oci_archive import write_archive
from tests.support.pages import PAGES, Block, list_blocks
from tools.cli.common import project
from tools.images import image
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets, cache
from tools.release import layout, package
from tools.release.standalone import zipapps

pytestmark = pytest.mark.long

NODE = "its pod needs a node: tests/node/test_release.py"
IMAGE = "it needs root: tests/node/test_image.py"
CI = "it is what CI runs"
HELM_TEST = "helm test azure-secret-store --namespace azure-secret-store --logs"
ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("README.md", "apiVersion: secret-sync.x-k8s.io/v1alpha1"): (
        "a part of the one in docs/secretsyncs.md: test_example_of_the_readme_is_part_of_a_tested_one"
    ),
    ("README.md", "make demo"): "tests/cluster/test_demo.py plays it",
    ("README.md", HELM_TEST): NODE,
    ("README.md", "make check"): CI,
    ("chart/README.md", HELM_TEST): NODE,
    ("chart/README.md", "receivers:"): "a collector's file: tests/logs runs one",
    ("docs/air-gapped.md", "sudo make image"): IMAGE,
    ("docs/air-gapped.md", "cosign verify-blob --key cosign.pub --bundle SHA256SUMS.sigstore.json"
     " --insecure-ignore-tlog SHA256SUMS"): "cosign takes minutes to build: tests/node/test_package.py",
    ("docs/arc.md", "sudo make image"): IMAGE,
    ("docs/gitops.md", "kubectl patch configmap argocd-cm --namespace argocd --patch-file"
     " chart/gitops/argocd-health-checks.yaml"): "there is no Argo CD: tests/cluster/test_gitops.py runs the checks",
    ("docs/gitops.md", "tools/render --output base"): "tests/cluster/test_gitops.py does the same",
    ("docs/upgrade.md", "helm upgrade azure-secret-store oci://registry.example/akv/charts/akv-secret-store"
     " --version 0.1.0 \\"): "tests/cluster/test_upgrade.py upgrades from old releases",
    ("docs/upgrade.md", "kubectl create --filename chart/crds"): (
        "tests/cluster/test_upgrade.py types what the chart's message says"
    ),
    ("docs/upgrade.md", "kubectl logs job/azure-secret-store-akv-secret-store-crds --namespace azure-secret-store"): (
        "a Job needs a node: tests/node/test_release.py reads its log"
    ),
    ("docs/upgrade.md", "kubectl describe pods --selector app.kubernetes.io/component=crds --namespace"
     " azure-secret-store"): NODE,
    ("docs/releases.md", "make release-rehearsal"): "it needs a node: tests/node/test_rehearsal.py",
    ("docs/releases.md", "cosign verify ghcr.io/akv-secret-store/akv-secret-store:0.1.0 \\"): "none is published yet",
    ("docs/releases.md", "tools/verify-release release"): "nothing is published yet: tests/node/test_rehearsal.py",
    ("docs/backup-restore.md", "velero backup create shop --include-namespaces shop"): (
        "Velero is not here: tests/cluster/test_adopt.py restores as it does"
    ),
    ("docs/network.md", "kubectl run dns-check --namespace shop --image busybox --rm --stdin --restart Never --"
     " nslookup shop-vault.vault.azure.net"): "its pod needs a node and the public DNS",
    ("docs/performance.md", "make bench                      # 100 and 1,000 SecretSyncs, three runs, about 20 minutes:"
     " docs/figures.md"): "it takes minutes: tests/cluster/test_costs.py has the counts",
    ("docs/install.md", "kube-apiserver-arg:"): "a file of k3s: test_flags_of_k3s_are_the_api_servers",
    ("docs/install.md", "sudo systemctl restart k3s"): "k3s is not here",
    ("docs/install.md", "sudo make image"): IMAGE,
    ("docs/install.md", 'az keyvault set-policy --name "${KEYVAULT_NAME}" --secret-permissions get list --object-id'
     ' "$(az identity show \\'): "the vault of this page has roles",
    ("docs/install.md", "kubectl --namespace azure-secret-store logs deployment/azure-secret-store-akv-secret-store"): (
        "the controller is a process here, without a pod's log"
    ),
}  # fmt: skip
"""The blocks that this module does not run, by page and first line. Each value is the reason."""

INSTEAD = {
    # The vault is the emulator, so the chart needs its values. The hook's Job needs a node, so helm runs no hook.
    "helm install ": "helm install --no-hooks --values ~/vault.yaml ",
    "helm upgrade ": "helm upgrade --no-hooks --values ~/vault.yaml ",
    "tools/render ": "tools/render --values ~/vault.yaml ",
    "release/render ": "release/render --values ~/vault.yaml ",
    # The checkout may have uncommitted changes.
    "tools/package ": f"XDG_CACHE_HOME={cache.cache_root().parent} tools/package --changed ",
}
"""Texts of the pages and their replacements in these tests. The fixture `reader` adds those of the registry."""

PAGES_HERE = [page for page in PAGES if page == "README.md" or page.startswith(("chart/", "docs/"))]


def here(page: str) -> list[Block]:
    """Return the blocks of the page that this module runs."""
    return [
        block for block in list_blocks(page) if (page, block.first) not in ELSEWHERE and block.language != "mermaid"
    ]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[PageRunner]:
    """Provide a page runner with a registry and a separate cluster, because pages install and remove the release."""
    folder = tmp_path / "checkout"
    (folder / "build").mkdir(parents=True)
    for name in ("akv-secret-store", "akv-secret-store-test"):
        write_archive(folder / "build" / f"{name}-{image.chart_version()}.tar")
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(tmp_path / "plane"))
        emulator = stack.enter_context(Emulator(tmp_path / "emulator"))
        site = stack.enter_context(registry.running())
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        charts = f"--plain-http oci://{site.address}/akv/charts"
        instead = {f"oci://{place}/charts": charts for place in ("registry.example/akv", project.read().registry)}
        # The emulator's host does not belong to Azure, so the doctor contacts it only with this flag.
        instead |= {"tools/doctor ": f"tools/doctor --allow-host {urlsplit(emulator.authority).netloc} "}
        found = PageRunner(plane, emulator, folder, {**INSTEAD, **instead, "registry.example": site.address})
        stack.callback(found.stop)
        found.add_program("skopeo", sys.executable, "-P", "-m", "tests.support.cluster.skopeo")
        values = {"clouds": {"emulator": emulator.cloud}, "defaultCloud": "emulator"}
        (folder / "vault.yaml").write_text(yaml.safe_dump(values))
        yield found


def shop(reader: PageRunner) -> None:
    """Create the vault, the identity and the namespace of the examples."""
    emulator, plane = reader.emulator, reader.plane
    vault = "shop-vault"
    client, tenant = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))
    emulator.add_vault(vault, tenant)
    emulator.add_identity(client, tenant)
    emulator.federate(client, plane.issuer, "system:serviceaccount:shop:shop")
    for role in ("Key Vault Secrets User", "Key Vault Reader"):
        emulator.assign_role(client, vault, role)
    now = datetime.now(UTC)
    for age, password in ((3, "first"), (2, "second"), (1, "third")):
        pinned = emulator.set_secret(vault, "db-password", password)
        emulator.set_attributes(vault, "db-password", created=now.timestamp() - age)
    reader.substitutions["0123456789abcdef0123456789abcdef"] = pinned.rpartition("/")[2]
    for name, text in (
        ("api-token", "token"),
        ("db-user", "shop"),
        ("deploy-key", "a key"),
        ("keytab", "a2V5dGFi"),
        ("registry", '{"auths": {}}'),
    ):
        emulator.set_secret(vault, name, text)
    root = issue_certificate("root", ca=True, start=now)
    for name in ("web", "web-old", "web-old", "edge", "edge"):
        emulator.import_certificate(vault, name, encode_pem_bundle(issue_certificate(name, root, start=now), root))
    emulator.create_key(vault, "signing")
    plane.kubectl("create", "namespace", "shop")
    plane.kubectl("create", "serviceaccount", "shop", "--namespace", "shop")


def published(reader: PageRunner) -> None:
    """Push the chart of a release to the registry."""
    place, folder = reader.substitutions["registry.example"], reader.folder / "published"
    assert package.main(["--changed", "--registry", f"{place}/akv", "--output", str(folder)]) == 0
    registry.Registry(place).push(
        f"akv/{layout.CHART}", skopeo.read_layout(f"oci:{folder}/oci/chart:{image.chart_version()}")
    )


def fetched(_: PageRunner) -> None:
    """Fetch the wheels of render and doctor, unless another test has fetched them."""
    zipapps.wheels()


def installed_shop(reader: PageRunner) -> None:
    """Prepare the examples as `shop` does, and install the release."""
    shop(reader)
    reader.run_blocks(here("chart/README.md")[:1])


def other_operator(page: str, owner: str, secret: dict[str, str], reader: PageRunner) -> None:
    """Install the release, and create the first objects of the page and the Secret that the other operator writes."""
    installed_shop(reader)
    other_operators.serve(reader.plane)
    first = next(block for block in here(page) if block.language == "yaml")
    reader.plane.kubectl("apply", "--filename", "-", stdin=reader.substitute(first.text))
    other_operators.make_secret(reader.plane, "shop", owner, "db", secret)


def external_secrets(reader: PageRunner) -> None:
    """Install the release, and create the objects of External Secrets."""
    secret = {"user": "shop", "password": "third"}
    other_operator("docs/from-external-secrets.md", "externalsecret/db", secret, reader)


def akv2k8s(reader: PageRunner) -> None:
    """Install the release, and create the objects of akv2k8s and its controller's Deployment."""
    other_operator("docs/from-akv2k8s.md", "azurekeyvaultsecret/db-password", {"password": "third"}, reader)
    reader.plane.kubectl("create", "namespace", "akv2k8s")
    reader.plane.kubectl("create", "deployment", "akv2k8s-controller", "--image=x", "--namespace", "akv2k8s")


def shop_of_properties(reader: PageRunner) -> None:
    """Install the release, and create the secrets of docs/json-property.md."""
    installed_shop(reader)
    config = {
        "database": {"host": "db", "password": "swordfish"},
        "port": 5432,
        "servers": [{"name": "a"}],
        "tls.crt": "a certificate",
    }
    for name, text in (
        ("config", json.dumps(config)),
        ("settings", '{"LOG_LEVEL": "info", "RETRIES": 3, "TLS": true}'),
        ("login", "shop:swordfish"),
        ("keystore", "/u3+7Q=="),
    ):
        reader.emulator.set_secret("shop-vault", name, text)


def connected(reader: PageRunner) -> None:
    """Provide `az` with a cluster that is connected to Arc."""
    reader.add_az(groups={"AzureArcTest": "EastUS"}, clusters={"AzureArcTest1": True})


def restored_shop(reader: PageRunner) -> None:
    """Install the release, and create a SecretSync and a Secret as a backup tool restores them."""
    installed_shop(reader)
    spec = {"secretProviderClassName": "db", "serviceAccountName": "shop",
            "secretObject": {"data": [{"sourcePath": "db-password", "targetKey": "password"}]}}  # fmt: skip
    sync = {
        "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
        "kind": "SecretSync",
        "metadata": {"name": "db"},
        "spec": spec,
    }
    labels = {"secrets-store.sync.x-k8s.io": ""}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "labels": labels}, "type": "Opaque"}
    manifests = yaml.safe_dump_all([sync, secret])
    reader.plane.kubectl("create", "--namespace", "shop", "--filename", "-", stdin=manifests)


BEFORE: Mapping[str, Callable[[PageRunner], None]] = {
    "README.md": published,
    "chart/README.md": shop,
    "docs/air-gapped.md": fetched,
    "docs/arc.md": connected,
    "docs/backup-restore.md": restored_shop,
    "docs/from-akv2k8s.md": akv2k8s,
    "docs/from-external-secrets.md": external_secrets,
    "docs/install.md": PageRunner.add_az,
    "docs/network.md": installed_shop,
    "docs/json-property.md": shop_of_properties,
    "docs/restart-on-change.md": installed_shop,
    "docs/secretsyncs.md": installed_shop,
    "docs/select.md": installed_shop,
}
"""The function that prepares the environment of a page."""


@pytest.mark.parametrize("page", [page for page in PAGES_HERE if here(page)])
def test_commands_of_a_page_work(page: str, reader: PageRunner) -> None:
    if page in BEFORE:
        BEFORE[page](reader)
    reader.run_blocks(here(page))


def test_every_block_listed_as_elsewhere_is_on_its_page() -> None:
    known = {(page, block.first) for page in PAGES_HERE for block in list_blocks(page)}
    assert ELSEWHERE.keys() - known == set()


def test_flags_of_k3s_are_the_api_servers() -> None:
    [block] = [block for block in list_blocks("docs/install.md") if block.first == "kube-apiserver-arg:"]
    program = assets.kubernetes().path("kube-apiserver")
    known = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    for argument in yaml.safe_load(block.text)["kube-apiserver-arg"]:
        assert re.search(rf"^ +--{argument.partition('=')[0]} ", known, re.MULTILINE)
