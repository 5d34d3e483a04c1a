"""Test that tools/package makes a reproducible folder, and that helm can install its chart from a registry."""

import hashlib
import io
import json
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import registry
from tests.support.oci_archive import BASE, list_installed_files, write_archive
from tools.cli.common import helm, project
from tools.cli.render import render
from tools.images import image
from tools.release import layout, oci, package
from tools.release.azure import flux
from tools.release.standalone import krew

SHA256 = "SHA256SUMS"


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_release(folder: Path, *args: str) -> dict[str, bytes]:
    assert package.main(["--changed", "--output", str(folder), *args]) == 0
    return read_files(folder)


@pytest.fixture(scope="module")
def oci_registry() -> Iterator[registry.Registry]:
    with registry.running() as running:
        yield running


@pytest.fixture(scope="module")
def image_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, oci_registry: registry.Registry, image_archive: Path) -> Path:
    """Return a release for this registry, with an existing image."""
    into = tmp_path_factory.mktemp("made") / "release"
    make_release(into, "--registry", f"{oci_registry.address}/akv", "--image", str(image_archive))
    return into


def read_artifact(folder: Path, name: str) -> dict[str, bytes]:
    return read_files(folder / "oci" / name)


def get_chart_path(folder: Path) -> Path:
    return folder / f"akv-secret-store-{image.chart_version()}.tgz"


def test_second_package_has_the_same_bytes(
    folder: Path, oci_registry: registry.Registry, image_archive: Path, tmp_path: Path
) -> None:
    again = make_release(tmp_path / "again", "--registry", f"{oci_registry.address}/akv", "--image", str(image_archive))
    assert again == read_files(folder)


def test_checksums_cover_every_file(folder: Path) -> None:
    checked = subprocess.run(["sha256sum", "--check", SHA256], cwd=folder, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    named = {line.split("  ", 1)[1] for line in (folder / SHA256).read_text().splitlines()}
    assert named == read_files(folder).keys() - {SHA256}


def test_helm_pulls_the_chart_that_was_pushed_from_the_layout(
    folder: Path, oci_registry: registry.Registry, tmp_path: Path
) -> None:
    pushed = oci_registry.push(f"akv/{layout.CHART}", read_artifact(folder, "chart"))
    assert pushed in (folder / "RELEASE.md").read_text()
    flags = ["--plain-http", "--version", image.chart_version(), "--destination", str(tmp_path)]
    helm.run(["pull", f"oci://{oci_registry.address}/akv/{layout.CHART}", *flags])
    assert (tmp_path / get_chart_path(folder).name).read_bytes() == get_chart_path(folder).read_bytes()


def test_chart_artifact_equals_one_that_helm_pushes(folder: Path, oci_registry: registry.Registry) -> None:
    helm.run(["push", str(get_chart_path(folder)), f"oci://{oci_registry.address}/by-helm", "--plain-http"])
    _, content = oci_registry.manifests[f"by-helm/{layout.NAME}"][image.chart_version()]
    pushed, packed = json.loads(content), read_manifest(read_artifact(folder, "chart"))
    assert packed["layers"] == pushed["layers"]
    assert packed["config"]["mediaType"] == pushed["config"]["mediaType"]
    pushed_config = json.loads(oci_registry.blobs[pushed["config"]["digest"]])
    assert json.loads(get_blob(read_artifact(folder, "chart"), packed["config"]["digest"])) == pushed_config


def test_chart_from_the_registry_has_the_image_by_digest(folder: Path, oci_registry: registry.Registry) -> None:
    oci_registry.push(f"akv/{layout.CHART}", read_artifact(folder, "chart"))
    where = [
        "--plain-http",
        "--version",
        image.chart_version(),
        "--namespace",
        helm.RELEASE,
        "--kube-version",
        "1.37.2",
    ]
    manifests = render.split(
        helm.run(["template", helm.RELEASE, f"oci://{oci_registry.address}/akv/{layout.CHART}", *where])
    )
    [named] = render.images(list(manifests))
    assert named == f"{oci_registry.address}/akv/akv-secret-store@{read_image_digest(folder)}"
    assert (folder / "images.txt").read_text() == f"{named}\n"
    about = yaml.safe_load(helm.run(["show", "chart", str(get_chart_path(folder))]))
    assert yaml.safe_load(about["annotations"]["artifacthub.io/images"]) == [{"name": "controller", "image": named}]


def test_flux_manifests_refer_to_the_pushed_chart(
    folder: Path, oci_registry: registry.Registry, tmp_path: Path
) -> None:
    oci_registry.push(f"akv/{layout.MANIFESTS}", read_artifact(folder, "flux"))
    kind, content = oci_registry.manifests[f"akv/{layout.MANIFESTS}"][image.chart_version()]
    assert kind == oci.MANIFEST
    [layer] = json.loads(content)["layers"]
    packed = tmp_path / "layer.tgz"
    packed.write_bytes(oci_registry.blobs[layer["digest"]])
    subprocess.run(["tar", "--extract", "--gzip", "--file", packed, "--directory", tmp_path], check=True)
    packed.unlink()
    assert read_files(tmp_path) == read_files(folder / "flux")
    repository = yaml.safe_load((tmp_path / "release" / "ocirepository.yaml").read_text())
    assert repository["spec"]["url"] == f"oci://{oci_registry.address}/akv/{layout.CHART}"
    assert repository["spec"]["ref"] == {"tag": image.chart_version()}
    [chart_layer] = read_manifest(read_artifact(folder, "chart"))["layers"]
    assert repository["spec"]["layerSelector"]["mediaType"] == chart_layer["mediaType"]
    template = json.loads((folder / "azure" / "flux.json").read_text())
    assert (
        template["parameters"]["artifactUrl"]["defaultValue"] == f"oci://{oci_registry.address}/akv/{layout.MANIFESTS}"
    )
    for name in template["resources"][0]["properties"]["kustomizations"]:
        kustomization = yaml.safe_load((tmp_path / name / "kustomization.yaml").read_text())
        assert all((tmp_path / name / resource).is_file() for resource in kustomization["resources"])
    secret = yaml.safe_load((tmp_path / "settings" / "secret.yaml").read_text())["metadata"]["name"]
    assert secret == flux.SETTINGS


def test_azure_template_has_the_image_digest_of_the_release(folder: Path) -> None:
    described = json.loads((folder / "azure" / "extension.json").read_text())
    assert described["parameters"]["imageDigest"]["defaultValue"] == read_image_digest(folder)
    assert f"image.digest={read_image_digest(folder)}" in described["variables"]["defaults"]


def test_relocation_copies_all_artifacts(folder: Path, oci_registry: registry.Registry, tmp_path: Path) -> None:
    """A fake of skopeo prints its arguments."""
    script = folder / "relocate.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    program = tmp_path / "skopeo"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    ran = subprocess.run([script, "--more"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    version, target = image.chart_version(), f"docker://{oci_registry.address}/akv"
    assert ran.stdout.splitlines() == [
        f"copy --all --preserve-digests --more {source} {target}/{target_name}"
        for source, target_name in (
            (f"oci-archive:images/akv-secret-store-{version}.tar", f"akv-secret-store:{version}"),
            (f"oci:oci/chart:{version}", f"charts/akv-secret-store:{version}"),
            (f"oci:oci/flux:{version}", f"flux/akv-secret-store:{version}"),
            ("oci:oci/artifacthub:artifacthub.io", "charts/akv-secret-store:artifacthub.io"),
        )
    ]


def test_default_registry_is_that_of_the_project(tmp_path: Path) -> None:
    files = make_release(tmp_path / "release")
    registry_path, version = project.read().registry, image.chart_version()
    assert (
        files["images.txt"].decode()
        == f"{registry_path}/akv-secret-store:{version}\n{registry_path}/akv-secret-store-test:{version}\n"
    )
    assert f"docker://{registry_path}/{layout.CHART}:{version}" in files["relocate.sh"].decode()
    assert f"This release does not contain the image: copy it to {registry_path}" in files["relocate.sh"].decode()


def write_images_of_two_architectures(folder: Path) -> list[str]:
    """Write both images for both architectures, and return the flags that name them."""
    flags = []
    for name in (layout.NAME, layout.TEST_NAME):
        for architecture in ("arm64", "amd64"):
            path = write_archive(
                folder / f"{name}-{architecture}.tar",
                BASE,
                list_installed_files() | {"etc/name": f"{name} {architecture}".encode()},
                architecture=architecture,
                name=f"r.example/{name}:{image.chart_version()}",
            )
            flags += ["--image", str(path)]
    return flags


def test_images_of_two_architectures_become_one_index(tmp_path: Path) -> None:
    files = make_release(tmp_path / "release", "--registry", "r.example", *write_images_of_two_architectures(tmp_path))
    listed = json.loads(files["artifacts.json"])
    for one in listed["artifacts"][:2]:
        with tarfile.open(tmp_path / "release" / "images" / f"{one['repository']}-{image.chart_version()}.tar") as tar:
            blobs = {entry.name: (tar.extractfile(entry) or io.BytesIO()).read() for entry in tar}
        [described] = json.loads(blobs["index.json"])["manifests"]
        assert (described["mediaType"], described["digest"]) == (oci.INDEX, one["digest"])
        index = json.loads(get_blob(blobs, one["digest"]))
        assert [each["platform"] for each in index["manifests"]] == [
            {"architecture": architecture, "os": "linux"} for architecture in ("amd64", "arm64")
        ]
        assert list(one["bills"]) == [each["digest"] for each in index["manifests"]]
        for digest, path in one["bills"].items():
            [content] = [each["content"] for each in json.loads(files[path])["metadata"]["component"]["hashes"]]
            assert f"sha256:{content}" == digest
            manifest_of_one = json.loads(get_blob(blobs, digest))
            assert all(
                oci.compute_digest(get_blob(blobs, part["digest"])) == part["digest"]
                for part in manifest_of_one["layers"]
            )
    assert [line.partition("@")[2] for line in files["images.txt"].decode().splitlines()] == [
        one["digest"] for one in listed["artifacts"][:2]
    ]
    assert yaml.safe_load(read_chart_file(tmp_path / "release", "values.yaml"))["test"]["enabled"] is True


def read_chart_file(folder: Path, name: str) -> bytes:
    with tarfile.open(get_chart_path(folder)) as chart:
        packed = chart.extractfile(f"akv-secret-store/{name}")
        assert packed is not None
        return packed.read()


def test_second_archive_of_an_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_archive(tmp_path / "one.tar")
    flags = ["--image", str(one), "--image", str(write_archive(tmp_path / "two.tar"))]
    assert package.main(["--changed", "--output", str(tmp_path / "release"), *flags]) == 1
    assert "there is already an image of akv-secret-store:0.1.0 for amd64" in capsys.readouterr().err


def test_image_of_the_test_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_archive(tmp_path / "one.tar", name=f"r.example/{layout.TEST_NAME}:0.1.0")
    assert package.main(["--changed", "--output", str(tmp_path / "release"), "--image", str(one)]) == 2
    assert "the image of the controller is missing" in capsys.readouterr().err


def test_checkout_with_changes_is_not_packaged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image, "git_revision", lambda: "f00-dirty")
    assert package.main(["--output", str(tmp_path / "release")]) == 1
    assert "this checkout has uncommitted changes or is not a git checkout (f00-dirty)" in capsys.readouterr().err
    monkeypatch.setattr(image, "git_revision", lambda: "f00")
    assert package.main(["--output", str(tmp_path / "release")]) == 0
    assert "This release was made from f00." in (tmp_path / "release" / "RELEASE.md").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--registry", "https://r.example"], "a registry is HOST[:PORT][/PATH] in lower case, without https://"),
        (["--registry", "r.example/Akv"], "a registry is HOST[:PORT][/PATH] in lower case, without https://"),
        (["--image", "README.md"], "README.md is not an OCI archive of one image"),
        (["--image", "none.tar"], "none.tar is not an OCI archive of one image"),
    ],
)
def test_wrong_options_are_reported(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert package.main(["--changed", "--output", str(tmp_path / "release"), *args]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_existing_output_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert package.main(["--changed", "--output", str(tmp_path)]) == 2
    assert "the folder already exists; remove it, or choose another folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def get_blob(files: dict[str, bytes], digest: str) -> bytes:
    return files[f"blobs/{digest.replace(':', '/')}"]


def read_manifest(files: dict[str, bytes]) -> Any:
    [described] = json.loads(files["index.json"])["manifests"]
    content = get_blob(files, described["digest"])
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == described["digest"]
    return json.loads(content)


def read_image_digest(folder: Path) -> str:
    [line] = [line for line in (folder / "RELEASE.md").read_text().splitlines() if line.startswith("| image |")]
    return line.split("`")[1].partition("@")[2]


def test_tools_of_a_release_run_with_only_python(
    oci_registry: registry.Registry, image_archive: Path, tmp_path: Path
) -> None:
    registry_path = f"{oci_registry.address}/akv"
    files = make_release(
        tmp_path / "release", "--with-tools", "--registry", registry_path, "--image", str(image_archive)
    )
    folder = tmp_path / "release"
    for name in ("render", "doctor"):
        assert (folder / name).stat().st_mode & stat.S_IXUSR
    [image_name] = files["images.txt"].decode().splitlines()
    manifests = {name for name in files if name.startswith("manifests/")}
    assert any(
        f"image: {image_name}" in files[name].decode().replace('"', "") for name in manifests if "deployment" in name
    )
    outside = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    python = Path(sys.base_prefix, "bin", "python3")
    argv = [str(python), "-I", str(folder / "render"), "--images", "--no-hooks"]
    assert subprocess.run(argv, env=outside, capture_output=True, text=True, check=True).stdout == f"{image_name}\n"


def test_krew_manifest_refers_to_the_archive_of_the_release(tmp_path: Path) -> None:
    doctor = b"#!/usr/bin/env python3\n"
    files = krew.files(project.read(), doctor, b"a license")
    manifest_of_plugin = yaml.safe_load(files["krew/akv-doctor.yaml"])
    archive_name = f"akv-doctor-{image.chart_version()}.tar.gz"
    assert {one["selector"]["matchLabels"]["arch"] for one in manifest_of_plugin["spec"]["platforms"]} == {
        "amd64",
        "arm64",
    }
    for one in manifest_of_plugin["spec"]["platforms"]:
        assert one["uri"] == f"{project.read().repository}/releases/download/v{image.chart_version()}/{archive_name}"
        assert f"sha256:{one['sha256']}" == oci.compute_digest(files[archive_name])
    (tmp_path / "plugin.tar.gz").write_bytes(files[archive_name])
    subprocess.run(["tar", "--extract", "--gzip", "--file", "plugin.tar.gz"], cwd=tmp_path, check=True)
    assert (tmp_path / one["bin"]).read_bytes() == doctor
    assert (tmp_path / one["bin"]).stat().st_mode & stat.S_IXUSR
    assert (tmp_path / "LICENSE").read_bytes() == b"a license"
