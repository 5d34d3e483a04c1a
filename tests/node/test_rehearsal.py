"""Test a release as the workflow release.yml creates it, from the images to a running Pod."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.oci_archive import write_archive
from tools.images import image
from tools.local_cluster import ControlPlane
from tools.release import image_contents, layout, local_registry, oci, rehearsal, verify
from tools.release import manifest as release_manifest


@pytest.fixture(scope="module", autouse=True)
def password() -> Iterator[None]:
    """Protect every key of these tests with one password."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSIGN_PASSWORD", "only for these tests")
        yield


@pytest.fixture(scope="module")
def registry_path(tmp_path_factory: pytest.TempPathFactory, plane: ControlPlane) -> Iterator[str]:
    with local_registry.serve(tmp_path_factory.mktemp("registry"), plane.node.network.host) as address:
        yield f"{address}/akv"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rehearsal.make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory,
    registry_path: str,
    key: Path,
    built: image.BuiltImage,
    built_test: image.BuiltImage,
) -> Path:
    return rehearsal.make_release(
        tmp_path_factory.mktemp("made"), registry_path, [built.archive, built_test.archive], key
    )


def test_published_release_is_installed_and_tested(released: Path, plane: ControlPlane) -> None:
    assert "Succeeded" in rehearsal.install(plane, released)


def test_every_artifact_is_signed_and_attested(released: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(released), f"--key={key.with_suffix('.pub')}", "--plain-http"]) == 0
    manifest = release_manifest.read(released)
    assert capsys.readouterr().out.splitlines() == [f"valid: {manifest.reference(one)}" for one in manifest.artifacts]
    assert {one.repository for one in manifest.artifacts} == {
        "akv-secret-store",
        "akv-secret-store-test",
        "charts/akv-secret-store",
        "flux/akv-secret-store",
    }


def test_verification_with_another_key_fails(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = rehearsal.make_key(tmp_path).with_suffix(".pub")
    assert verify.main([str(released), f"--key={other}", "--plain-http"]) == 1
    assert "tools/verify-release: " in capsys.readouterr().err


@pytest.mark.parametrize(("field", "message"), [("revision", "its provenance names the commits"), ("bill", "its bill")])
def test_release_that_differs_from_the_registry_is_refused(
    field: str, message: str, released: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("artifacts.json", "sbom"):
        (tmp_path / name).symlink_to(released / name)
    if field == "bill":
        (tmp_path / "sbom").unlink()
        (tmp_path / "sbom").mkdir()
        for path in (released / "sbom").iterdir():
            (tmp_path / "sbom" / path.name).write_text('{"components": []}')
    else:
        text = (released / "artifacts.json").read_text()
        (tmp_path / "artifacts.json").unlink()
        (tmp_path / "artifacts.json").write_text(text.replace(image.git_revision(), "0" * 40))
    assert verify.main([str(tmp_path), f"--key={key.with_suffix('.pub')}", "--plain-http"]) == 1
    assert message in capsys.readouterr().err


def test_both_architectures_are_published_and_attested(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use small images. They differ from the real ones only in the contents of their layers."""
    archives = [
        write_archive(tmp_path / f"{architecture}.tar", architecture=architecture, name=f"r.example/{layout.NAME}:1")
        for architecture in ("amd64", "arm64")
    ]
    (tmp_path / "registry").mkdir()
    with local_registry.serve(tmp_path / "registry") as address:
        folder = rehearsal.make_release(tmp_path, f"{address}/akv", archives, key)
        manifest = release_manifest.read(folder)
        [published] = [one for one in manifest.artifacts if one.repository == layout.NAME]
        assert f"valid: {manifest.reference(published)}" in capsys.readouterr().out
        index = fetch_index(address, f"/v2/akv/{layout.NAME}/manifests/{published.tag}")
        assert oci.compute_digest(index) == published.digest
        assert {one["platform"]["architecture"]: one["digest"] for one in json.loads(index)["manifests"]} == {
            inventory.architecture: inventory.digest for inventory in map(image_contents.read_inventory, archives)
        }
        # The verification detects a bill of materials that differs from the published one.
        changed = folder / published.bills[next(reversed(published.bills))]
        changed.write_text(changed.read_text().replace("MIT", "BSD"))
        assert verify.main([str(folder), f"--key={key.with_suffix('.pub')}", "--plain-http"]) == 1
        assert f"its bill of materials is not {changed.relative_to(folder)}" in capsys.readouterr().err


def fetch_index(address: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": oci.INDEX})
        return connection.getresponse().read()
    finally:
        connection.close()
