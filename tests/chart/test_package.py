"""tools/package as people run it: a folder, the same each time, that helm can install from a registry."""

import hashlib
import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import registry
from tests.unit.oci_archive import archive
from tools import flux, helm, image, oci, package, release, render

SHA256 = "SHA256SUMS"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(folder: Path, *args: str) -> dict[str, bytes]:
    assert package.main(["--changed", "--output", str(folder), *args]) == 0
    return contents(folder)


@pytest.fixture(scope="module")
def store() -> Iterator[registry.Registry]:
    with registry.running() as running:
        yield running


@pytest.fixture(scope="module")
def image_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, store: registry.Registry, image_archive: Path) -> Path:
    """A release for that registry, with the image at hand."""
    into = tmp_path_factory.mktemp("made") / "release"
    made(into, "--registry", f"{store.address}/akv", "--image", str(image_archive))
    return into


def layout(folder: Path, name: str) -> dict[str, bytes]:
    return contents(folder / "oci" / name)


def tgz(folder: Path) -> Path:
    return folder / f"akv-secret-store-{image.version()}.tgz"


def test_twice_makes_the_same_bytes(
    folder: Path, store: registry.Registry, image_archive: Path, tmp_path: Path
) -> None:
    again = made(tmp_path / "again", "--registry", f"{store.address}/akv", "--image", str(image_archive))
    assert again == contents(folder)


def test_the_checksums_are_those_of_every_file(folder: Path) -> None:
    checked = subprocess.run(["sha256sum", "--check", SHA256], cwd=folder, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    named = {line.split("  ", 1)[1] for line in (folder / SHA256).read_text().splitlines()}
    assert named == contents(folder).keys() - {SHA256}


def test_helm_pulls_what_was_pushed_from_the_layout(folder: Path, store: registry.Registry, tmp_path: Path) -> None:
    pushed = store.push(f"akv/{release.CHART}", layout(folder, "chart"))
    assert pushed in (folder / "RELEASE.md").read_text()
    at = ["--plain-http", "--version", image.version(), "--destination", str(tmp_path)]
    helm.run(["pull", f"oci://{store.address}/akv/{release.CHART}", *at])
    assert (tmp_path / tgz(folder).name).read_bytes() == tgz(folder).read_bytes()


def test_the_artifact_is_what_helm_itself_would_push(folder: Path, store: registry.Registry) -> None:
    helm.run(["push", str(tgz(folder)), f"oci://{store.address}/by-helm", "--plain-http"])
    _, content = store.manifests[f"by-helm/{release.NAME}"][image.version()]
    theirs, ours = json.loads(content), manifest(layout(folder, "chart"))
    assert ours["layers"] == theirs["layers"]
    assert ours["config"]["mediaType"] == theirs["config"]["mediaType"]
    their_config = json.loads(store.blobs[theirs["config"]["digest"]])
    assert json.loads(blob(layout(folder, "chart"), ours["config"]["digest"])) == their_config


def test_it_renders_from_the_registry_with_the_image_by_digest(folder: Path, store: registry.Registry) -> None:
    store.push(f"akv/{release.CHART}", layout(folder, "chart"))
    where = ["--plain-http", "--version", image.version(), "--namespace", helm.RELEASE, "--kube-version", "1.37.2"]
    manifests = render.split(helm.run(["template", helm.RELEASE, f"oci://{store.address}/akv/{release.CHART}", *where]))
    [named] = render.images(list(manifests))
    assert named == f"{store.address}/akv/akv-secret-store@{image_digest(folder)}"
    assert (folder / "images.txt").read_text() == f"{named}\n"
    about = yaml.safe_load(helm.run(["show", "chart", str(tgz(folder))]))
    assert yaml.safe_load(about["annotations"]["artifacthub.io/images"]) == [{"name": "controller", "image": named}]


def test_flux_finds_the_chart_where_it_is_pushed(folder: Path, store: registry.Registry, tmp_path: Path) -> None:
    store.push(f"akv/{release.MANIFESTS}", layout(folder, "flux"))
    kind, content = store.manifests[f"akv/{release.MANIFESTS}"][image.version()]
    assert kind == oci.MANIFEST
    [layer] = json.loads(content)["layers"]
    packed = tmp_path / "layer.tgz"
    packed.write_bytes(store.blobs[layer["digest"]])
    subprocess.run(["tar", "--extract", "--gzip", "--file", packed, "--directory", tmp_path], check=True)
    packed.unlink()
    assert contents(tmp_path) == contents(folder / "flux")
    repository = yaml.safe_load((tmp_path / "release" / "ocirepository.yaml").read_text())
    assert repository["spec"]["url"] == f"oci://{store.address}/akv/{release.CHART}"
    assert repository["spec"]["ref"] == {"tag": image.version()}
    [chart_layer] = manifest(layout(folder, "chart"))["layers"]
    assert repository["spec"]["layerSelector"]["mediaType"] == chart_layer["mediaType"]
    template = json.loads((folder / "azure" / "flux.json").read_text())
    assert template["parameters"]["artifactUrl"]["defaultValue"] == f"oci://{store.address}/akv/{release.MANIFESTS}"
    for name in template["resources"][0]["properties"]["kustomizations"]:
        kustomization = yaml.safe_load((tmp_path / name / "kustomization.yaml").read_text())
        assert all((tmp_path / name / resource).is_file() for resource in kustomization["resources"])
    secret = yaml.safe_load((tmp_path / "settings" / "secret.yaml").read_text())["metadata"]["name"]
    assert secret == flux.SETTINGS


def test_the_templates_do_not_undo_the_releases_own_image(folder: Path) -> None:
    described = json.loads((folder / "azure" / "extension.json").read_text())
    assert described["parameters"]["imageDigest"]["defaultValue"] == image_digest(folder)
    assert f"image.digest={image_digest(folder)}" in described["variables"]["defaults"]


def test_relocation_copies_all_of_it(folder: Path, store: registry.Registry, tmp_path: Path) -> None:
    """By a skopeo that tells what it was asked."""
    script = folder / "relocate.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    program = tmp_path / "skopeo"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    ran = subprocess.run([script, "--more"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    version, target = image.version(), f"docker://{store.address}/akv"
    assert ran.stdout.splitlines() == [
        f"copy --preserve-digests --more oci-archive:images/akv-secret-store-{version}.tar"
        f" {target}/akv-secret-store:{version}",
        f"copy --preserve-digests --more oci:oci/chart:{version} {target}/charts/akv-secret-store:{version}",
        f"copy --preserve-digests --more oci:oci/flux:{version} {target}/flux/akv-secret-store:{version}",
    ]


def test_without_a_registry_nothing_says_where_it_lies(tmp_path: Path) -> None:
    files = made(tmp_path / "release")
    assert files["images.txt"].decode() == f"akv-secret-store:{image.version()}\n"
    assert not any(name.startswith(("flux/", "oci/flux", "images/")) or name == "relocate.sh" for name in files)
    assert "Flux" not in files["azure/README.md"].decode()


def test_what_cannot_be_made_again_is_not_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image, "revision", lambda: "f00-dirty")
    assert package.main(["--output", str(tmp_path / "release")]) == 1
    assert "this checkout is not one commit (f00-dirty)" in capsys.readouterr().err
    monkeypatch.setattr(image, "revision", lambda: "f00")
    assert package.main(["--output", str(tmp_path / "release")]) == 0
    assert "Made from f00." in (tmp_path / "release" / "RELEASE.md").read_text()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--registry", "https://r.example"], "a registry is HOST[:PORT][/PATH] in lower case, without https://"),
        (["--registry", "r.example/Akv"], "a registry is HOST[:PORT][/PATH] in lower case, without https://"),
        (["--image", "README.md"], "README.md is no OCI archive of one image"),
        (["--image", "none.tar"], "none.tar is no OCI archive of one image"),
    ],
)
def test_wrong_options_are_told(args: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert package.main(["--changed", "--output", str(tmp_path / "release"), *args]) == 1
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert package.main(["--changed", "--output", str(tmp_path)]) == 1
    assert "is there already; remove it, or name another folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def blob(files: dict[str, bytes], digest: str) -> bytes:
    return files[f"blobs/{digest.replace(':', '/')}"]


def manifest(files: dict[str, bytes]) -> Any:
    [described] = json.loads(files["index.json"])["manifests"]
    content = blob(files, described["digest"])
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == described["digest"]
    return json.loads(content)


def image_digest(folder: Path) -> str:
    [line] = [line for line in (folder / "RELEASE.md").read_text().splitlines() if line.startswith("| image |")]
    return line.split("`")[1]
