"""Every command and manifest of the pages, taken from the pages themselves and followed from top to bottom."""

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
from tests.cluster.reader import Reader
from tests.pages import PAGES, Block, blocks
from tests.unit.issuing import as_pem, issue
from tests.unit.oci_archive import archive
from tools import image
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane, assets

NODE = "its pod needs a node: tests/node/test_release.py"
IMAGE = "it needs root: tests/node/test_image.py"
CI = "it is what CI runs"
HELM_TEST = "helm test azure-secret-store --namespace azure-secret-store --logs"
ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("README.md", "apiVersion: secret-sync.x-k8s.io/v1alpha1"): (
        "a part of the one in docs/secretsyncs.md: test_the_readmes_example_is_a_part_of_one_that_is_run"
    ),
    ("README.md", "make demo"): "tests/cluster/test_demo.py plays it",
    ("README.md", HELM_TEST): NODE,
    ("README.md", "make image                  # as root, with buildah: OCI archives in build/, the controller's and"
     " that of helm test"): IMAGE,
    ("README.md", "make check"): CI,
    ("chart/README.md", HELM_TEST): NODE,
    ("chart/README.md", "receivers:"): "a collector's file: tests/logs runs one",
    ("docs/air-gapped.md", "sudo make image"): IMAGE,
    ("docs/air-gapped.md", "cosign verify-blob --key cosign.pub --bundle SHA256SUMS.sigstore.json"
     " --insecure-ignore-tlog SHA256SUMS"): "cosign takes minutes to build: tests/node/test_package.py",
    ("docs/arc.md", "sudo make image"): IMAGE,
    ("docs/performance.md", "make bench                      # 100 and 1,000 SecretSyncs, three runs, about 20 minutes:"
     " docs/figures.md"): "it takes minutes: tests/cluster/test_costs.py has the counts",
    ("docs/install.md", "kube-apiserver-arg:"): "a file of k3s: test_flags_of_k3s_are_the_api_servers",
    ("docs/install.md", "sudo systemctl restart k3s"): "k3s is not here",
    ("docs/install.md", "sudo make image"): IMAGE,
    ("docs/install.md", "kubectl --namespace azure-secret-store logs deployment/azure-secret-store-akv-secret-store"): (
        "the controller is a process here, without a pod's log"
    ),
}  # fmt: skip
"""What is not run here, by page and first line, and why."""

INSTEAD = {
    # The vault is the emulator, and the hook's Job needs a node.
    "helm install ": "helm install --no-hooks --values ~/vault.yaml ",
    "helm upgrade ": "helm upgrade --no-hooks --values ~/vault.yaml ",
    "tools/render ": "tools/render --values ~/vault.yaml ",
    # The checkout may have changes that no commit has.
    "tools/package ": "tools/package --changed ",
}
"""What the pages say, and what is done here instead; the fixture adds the registry."""

PAGES_HERE = [page for page in PAGES if page == "README.md" or page.startswith(("chart/", "docs/"))]


def here(page: str) -> list[Block]:
    """The page's blocks that are run here."""
    return [block for block in blocks(page) if (page, block.first) not in ELSEWHERE]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """With a cluster of their own, for pages install and remove what the suite has installed; and with a registry."""
    folder = tmp_path / "checkout"
    (folder / "build").mkdir(parents=True)
    archive(folder / "build" / f"akv-secret-store-{image.version()}.tar")
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(tmp_path / "plane"))
        emulator = stack.enter_context(Emulator(tmp_path / "emulator"))
        site = stack.enter_context(registry.running())
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        instead = {"oci://registry.example/akv/charts": f"--plain-http oci://{site.address}/akv/charts"}
        # The emulator's host is none of Azure's, so the reader names it.
        instead |= {"tools/doctor ": f"tools/doctor --allow-host {urlsplit(emulator.authority).netloc} "}
        found = Reader(plane, emulator, folder, {**INSTEAD, **instead, "registry.example": site.address})
        stack.callback(found.end)
        found.program("skopeo", sys.executable, "-P", "-m", "tests.cluster.skopeo")
        cloud = {
            "authority": emulator.authority,
            "vaultUrl": emulator.vault_pattern,
            "ca": emulator.ca_file.read_text(),
        }
        (folder / "vault.yaml").write_text(yaml.safe_dump({"clouds": {"emulator": cloud}, "defaultCloud": "emulator"}))
        yield found


def shop(reader: Reader) -> None:
    """The vault, the identity and the namespace of the examples."""
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
    reader.instead["0123456789abcdef0123456789abcdef"] = pinned.rpartition("/")[2]
    for name, text in (
        ("api-token", "token"),
        ("db-user", "shop"),
        ("deploy-key", "a key"),
        ("keytab", "a2V5dGFi"),
        ("registry", '{"auths": {}}'),
    ):
        emulator.set_secret(vault, name, text)
    root = issue("root", ca=True, start=now)
    for name in ("web", "web-old", "web-old", "edge", "edge"):
        emulator.import_certificate(vault, name, as_pem(issue(name, root, start=now), root))
    emulator.create_key(vault, "signing")
    plane.kubectl("create", "namespace", "shop")
    plane.kubectl("create", "serviceaccount", "shop", "--namespace", "shop")


def installed_shop(reader: Reader) -> None:
    """With the release, too."""
    shop(reader)
    reader.read(here("chart/README.md")[:1])


def connected(reader: Reader) -> None:
    """A cluster that Arc knows, and the chart's registry."""
    reader.azure(groups={"AzureArcTest": "EastUS"}, clusters={"AzureArcTest1": True})


BEFORE: Mapping[str, Callable[[Reader], None]] = {
    "chart/README.md": shop,
    "docs/arc.md": connected,
    "docs/install.md": Reader.azure,
    "docs/secretsyncs.md": installed_shop,
}
"""What is there before a page begins."""


@pytest.mark.parametrize("page", [page for page in PAGES_HERE if here(page)])
def test_a_page_can_be_followed(page: str, reader: Reader) -> None:
    if page in BEFORE:
        BEFORE[page](reader)
    reader.read(here(page))


def test_what_is_run_elsewhere_is_on_its_page() -> None:
    known = {(page, block.first) for page in PAGES_HERE for block in blocks(page)}
    assert ELSEWHERE.keys() - known == set()


def test_flags_of_k3s_are_the_api_servers() -> None:
    [block] = [block for block in blocks("docs/install.md") if block.first == "kube-apiserver-arg:"]
    program = assets.kubernetes().path("kube-apiserver")
    known = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    for argument in yaml.safe_load(block.text)["kube-apiserver-arg"]:
        assert re.search(rf"^ +--{argument.partition('=')[0]} ", known, re.MULTILINE)
