"""Test the pages: links have targets, blocks are of a kind that is tested, and tables name existing things."""

import ast
import re
import shlex
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from controller.api import secretsync
from controller.api.meta import MAX_SPEC
from controller.api.secretproviderclass import MAX_PARAMETERS
from controller.config.settings import BUILT_IN_CLOUDS
from controller.domain import certificates, vault_objects
from controller.domain.vault_objects import FIELDS
from controller.keyvault.credentials import Identity
from controller.keyvault.errors import VaultAddress, VaultRefusal, explain_refusal
from tests.support import sources
from tests.support.pages import PAGES, ROOT, list_anchors, list_blocks, list_links, matches_output
from tools.cli.common import sse_guide
from tools.cli.doctor import checks
from tools.cli.migrate import sse_settings
from tools.codegen import reference, values
from tools.images.image import chart_version
from tools.release.azure import extension, flux, identities


@pytest.mark.parametrize("page", PAGES)
def test_links_have_existing_targets(page: str) -> None:
    for link in list_links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in list_anchors(str(target.resolve().relative_to(ROOT))), link


def test_every_page_is_linked_from_the_readme() -> None:
    found, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page not in PAGES or page in found:
            continue
        found.add(page)
        paths = [link.partition("#")[0] for link in list_links(page) if not link.startswith("https://")]
        waiting += [str(((ROOT / page).parent / path).resolve().relative_to(ROOT)) for path in paths if path]
    assert set(PAGES) == found


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_a_kind_that_is_tested(page: str) -> None:
    for block in list_blocks(page):
        assert block.language in ("console", "yaml", "text", "mermaid"), block
        if block.language == "yaml":
            assert list(yaml.safe_load_all(block.text)), block


def test_page_for_offline_sites_uses_only_the_release() -> None:
    page = (ROOT / "docs" / "air-gapped.md").read_text()
    after_download = page.partition("## Verify the release")[2]
    commands = "\n".join(block.text for block in list_blocks("docs/air-gapped.md") if block.text in after_download)
    assert "release/render " in commands
    assert not re.search(r"(^|\s)(tools/|make |pip |chart/)", commands)


@pytest.mark.parametrize("manifest", [sse_guide.SERVICE_ACCOUNT, sse_guide.PROVIDER_CLASS, sse_guide.SECRET_SYNC])
def test_manifest_of_the_demo_is_on_its_page(manifest: str) -> None:
    assert any(f"EOF | kubectl apply -f -\n{manifest}EOF" in block.text or f".yaml\n{manifest}EOF" in block.text
               for block in list_blocks("docs/install.md"))  # fmt: skip


def test_arc_page_has_all_commands_of_a_release() -> None:
    registry = "registry.example/akv"
    made = "\n".join(
        [
            identities.identity_section(),
            extension.extension_section(chart_version()),
            flux.flux_section(registry, "flux/akv-secret-store", chart_version()),
        ]
    )
    shown = {block.text for block in list_blocks("docs/arc.md")}
    assert set(re.findall(r"```console\n(.*?)```", made, re.DOTALL)) - shown == set()


def list_options(command: str) -> set[str]:
    return {word for word in shlex.split(command) if word.startswith("--")}


def test_azure_commands_have_the_options_of_the_doctors() -> None:
    identity = Identity("my-namespace", "my-service-account", "a-client", "a-tenant")
    shown = "\n".join(block.text for block in list_blocks("docs/install.md")).replace("\\\n", " ").splitlines()
    for command in (checks.federated_credential(identity, "https://issuer.example"), checks.role(identity, "a-vault")):
        start = command.partition(" --")[0]
        assert list_options(command) in [list_options(line) for line in shown if line.startswith(start)]


def read_akvsync(page: str) -> dict[str, Any]:
    documents = (yaml.safe_load_all(block.text) for block in list_blocks(page) if block.language == "yaml")
    [found] = [document["spec"] for some in documents for document in some if document.get("kind") == "AKVSync"]
    return dict(found)


def test_example_of_the_readme_is_part_of_a_tested_one() -> None:
    shown, tested = read_akvsync("README.md"), read_akvsync("docs/secretsyncs.md")
    assert [each for each in shown.pop("objects") if each not in tested["objects"]] == []
    assert shown.items() < tested.items()


def test_values_on_pages_exist() -> None:
    known = {entry.path for entry in values.walk()}
    groups = {path.partition(".")[0] for path in known if "." in path}
    (table,) = re.findall(r"### For production\n(.*?)\n## ", (ROOT / "docs/install.md").read_text(), re.DOTALL)
    named = set(re.findall(r"`([a-z]\w+(?:\.\w+)*)`", table))
    assert len(named) > 8
    assert named <= known
    for page in PAGES:
        dotted = re.findall(r"`(\w+\.[\w.]+)=[^`]*`", (ROOT / page).read_text())
        assert {name for name in dotted if name.partition(".")[0] in groups} <= known


@pytest.mark.parametrize("page", ["README.md", "docs/comparison.md"])
def test_figures_of_other_pages_are_on_the_performance_page(page: str) -> None:
    figures = (ROOT / "docs/performance.md").read_text().partition("## Figures at a glance")[2].partition("\n## ")[0]
    table = (ROOT / page).read_text().partition("## Figures\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    numbers = {number for _, our_figure, *_ in rows for number in re.findall(r"\d[\d.,]+", our_figure)}
    assert len(numbers) > 4
    assert {number for number in numbers if not re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d])", figures)} == set()


def test_performance_page_counts_the_missed_targets() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]*\*\*missed\*\*", (ROOT / "docs/figures.md").read_text(), re.MULTILINE)
    number = ("no target", "one target", "two targets", "three targets")[len(set(rows))]
    assert f"mark {number} as missed" in (ROOT / "docs/performance.md").read_text()


def test_documented_fields_of_an_object_equal_the_parsed_ones() -> None:
    assert sorted(reference.OBJECT_FIELDS) == sorted(FIELDS)


@pytest.mark.parametrize(
    ("found", "shown", "wanted"),
    [
        ("a  b\n", "a b\n", True),
        ("a b", "a     b\n", True),
        ("a bc\n", "a b\n", False),
        ("a 12s x\n", "a … x\n", True),
        ("a x\n", "a … x\n", False),
        ("id=7;\n", "id=…;\n", True),
        ("a\nb\nc\n", "…\nc\n", True),
        ("c\n", "…\nc\n", True),
        ("a\nb\n", "a\n", False),
        ("a.c\n", "abc\n", False),
        ("a:\n  b\n", "a:\n    b\n", True),
    ],
)
def test_shown_output_is_compared_with_the_real_output(found: str, shown: str, wanted: bool) -> None:
    assert matches_output(found, shown) is wanted


def test_firewall_table_has_the_hosts_of_the_built_in_clouds() -> None:
    page = (ROOT / "docs/network.md").read_text()
    shown = {name: (entra, vault) for name, entra, vault in re.findall(r"\(`(\w+)`\) \| `([^`]+)` \| `([^`]+)`", page)}
    assert shown == {
        name: (urlsplit(cloud.authority).hostname, cloud.vault_url.removeprefix("https://").replace("{vault}", "VAULT"))
        for name, cloud in BUILT_IN_CLOUDS.items()
    }


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ForbiddenByFirewall", "firewall refuses this cluster"),
        ("ForbiddenByConnection", "has its public access off"),
    ],
)
def test_network_page_quotes_the_message_and_not_the_vaults_code(code: str, words: str) -> None:
    address = VaultAddress("shop-vault", "https://shop-vault.vault.azure.net")
    secrets: Any = SimpleNamespace(plural="secrets")
    error = explain_refusal(VaultRefusal(403, ("Forbidden", code)), address, "client", secrets, "list", None)
    page = " ".join((ROOT / "docs/network.md").read_text().split())
    assert (words in error.message, words in page) == (True, True)
    assert code not in error.message + page


def list_messages() -> Iterator[str]:
    """Return the texts in the controller's code, with … for each inserted value."""
    for path in (ROOT / "controller").rglob("*.py"):
        for node in ast.walk(sources.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def test_symptoms_on_the_install_page_quote_messages_of_the_controller() -> None:
    [table] = re.findall(r"\| symptom \|.*\n((?:\|.*\n)*)", (ROOT / "docs/install.md").read_text())
    quoted = {*re.findall(r"\*([^*\n]+)\*", table)} - {"conflict occurred while applying"}
    parts = {part.strip(" ,;") for text in quoted for part in text.split("…")} - {""}
    messages = "\n".join(list_messages())
    assert len(parts) > 8
    assert {part for part in parts if part not in messages} == set()


def test_bounds_on_the_differences_page_equal_the_code() -> None:
    page = (ROOT / "docs/sse-differences.md").read_text()
    excluded = values.ChartValues().validating_admission_policies.excluded_namespaces
    bounds = (
        f"{MAX_PARAMETERS:,} characters",
        f"{vault_objects.MAX_ITEMS:,} items",
        f"`objectVersionHistory` of {vault_objects.MAX_HISTORY}",
        f"annotations of {secretsync.MAX_TEXT:,} characters together, {secretsync.MAX_KEYS:,} keys,"
        f" and a spec of {MAX_SPEC // 1024} KiB",
        *(f"`{name}`" for name in excluded),
        f"{certificates.MAX_BUNDLE_BYTES // 1024} KiB, {certificates.MAX_CERTIFICATES} certificates or"
        f" {certificates.MAX_KEYS} private keys",
    )
    assert [bound for bound in bounds if bound not in page] == []


def test_settings_of_sse_on_the_page_are_known_to_the_tool() -> None:
    page = (ROOT / "docs/arc.md").read_text()
    table = page.partition("### Your settings of Microsoft's extension")[2].partition("\n\nAzure IoT")[0]
    shown = set(re.findall(r"^\| `([\w.-]+?)(?:\.\*)?` \|", table, re.MULTILINE))
    assert len(shown) > 6
    for name in shown:
        (setting,) = sse_settings.list_settings({name: "x"})
        assert "no such setting" not in setting.text, name
