"""Test a release with the real image. skopeo copies it to a registry, as for an air-gapped site."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chart import registry
from tools.images import image
from tools.local_cluster.nodes import system_packages
from tools.local_cluster.programs import assets
from tools.release import layout, package


def test_release_with_the_image_is_copied_to_another_registry(built: image.BuiltImage, tmp_path: Path) -> None:
    system_packages.require({"skopeo": "skopeo"})
    with registry.running() as oci_registry:
        target, folder = f"{oci_registry.address}/akv", tmp_path / "release"
        arguments = ["--changed", "--output", str(folder), "--registry", target, "--image", str(built.archive)]
        assert package.main(arguments) == 0
        assert (folder / "images.txt").read_text() == f"{target}/akv-secret-store@{built.digest}\n"
        done = subprocess.run([folder / "relocate.sh", "--dest-tls-verify=false"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert built.digest in oci_registry.manifests[f"akv/{layout.NAME}"]
        for name, repository in (("chart", layout.CHART), ("flux", layout.MANIFESTS)):
            [described] = json.loads((folder / "oci" / name / "index.json").read_text())["manifests"]
            assert described["digest"] in oci_registry.manifests[f"akv/{repository}"]


def test_signature_of_the_checksums_reveals_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "only for this test")
    monkeypatch.setenv("TUF_ROOT", str(tmp_path / "tuf"))
    # cosign runs without a network.
    without_network = ["unshare", "--net", str(assets.tool("cosign"))]
    subprocess.run([*without_network, "generate-key-pair"], cwd=tmp_path, check=True, capture_output=True)
    folder, key = tmp_path / "release", tmp_path / "cosign.key"
    assert package.main(["--changed", "--output", str(folder), "--sign", str(key)]) == 0
    (command,) = [line for line in (folder / "RELEASE.md").read_text().splitlines() if line.startswith("cosign ")]
    check = [*without_network, *command.replace("cosign.pub", str(tmp_path / "cosign.pub")).split()[1:]]
    assert subprocess.run(check, cwd=folder, capture_output=True).returncode == 0
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write("0  more\n")
    assert subprocess.run(check, cwd=folder, capture_output=True).returncode != 0
    monkeypatch.setenv("COSIGN_PASSWORD", "another")
    assert package.main(["--changed", "--output", str(tmp_path / "second"), "--sign", str(key)]) == 1
    assert "tools/package: cosign cannot sign with" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_tools_of_a_release_run_without_network_and_package_index(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    assert package.main(["--changed", "--with-tools", "--output", str(folder), "--registry", "r.example"]) == 0
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    without_network = ["unshare", "--net", str(Path(sys.base_prefix, "bin", "python3")), "-I"]
    into = tmp_path / "manifests"
    for argv in (["render", "--no-hooks", "--output", str(into)], ["render", "--images"], ["doctor", "--help"]):
        done = subprocess.run([*without_network, folder / argv[0], *argv[1:]], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    rendered = {path.name for path in into.iterdir()}
    assert rendered
    assert rendered <= {path.name for path in (folder / "manifests").iterdir()}


@pytest.mark.parametrize("name", ["pkg:pypi/cryptography@", "pkg:deb/debian/python3", "pkg:deb/debian/libc6@"])
def test_bill_of_materials_lists_the_contents_of_the_image(built: image.BuiltImage, tmp_path: Path, name: str) -> None:
    assert package.main(["--changed", "--output", str(tmp_path / "release"), "--image", str(built.archive)]) == 0
    bill = json.loads((tmp_path / "release" / "sbom" / "image.cdx.json").read_text())
    [content] = [each["content"] for each in bill["metadata"]["component"]["hashes"]]
    assert f"sha256:{content}" == built.digest
    assert any(component.get("purl", "").startswith(name) for component in bill["components"])
