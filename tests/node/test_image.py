"""Test that the images are reproducible and contain only the files that their programs need."""

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.images import image

ROOT = Path(__file__).parents[2]
MAX_PACKED = 25e6


@pytest.fixture(scope="module")
def config(built: image.BuiltImage) -> dict[str, Any]:
    with tarfile.open(built.archive) as archive:
        manifest = _read_json(archive, built.digest)
        return _read_json(archive, manifest["config"]["digest"])


@pytest.fixture(scope="module")
def own_layer(built: image.BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tarfile.TarFile]:
    """Provide the layer above the base image."""
    with tarfile.open(built.archive) as archive:
        digest = _read_json(archive, built.digest)["layers"][-1]["digest"]
        with tarfile.open(fileobj=archive.extractfile(_blob_path(digest))) as layer:
            yield layer


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _read_json(archive: tarfile.TarFile, digest: str) -> dict[str, Any]:
    file = archive.extractfile(_blob_path(digest))
    assert file is not None
    found: dict[str, Any] = json.load(file)
    return found


def test_two_builds_of_an_image_have_one_digest(built: image.BuiltImage, tmp_path: Path) -> None:
    assert image.build_image(tmp_path / "again.tar", base=image.DEBIAN).digest == built.digest


def test_image_has_labels_entrypoint_and_an_unprivileged_user(config: dict[str, Any]) -> None:
    ran = config["config"]
    assert ran["User"] == "65532:65532"
    assert ran["Entrypoint"] == ["python", "-P", "-m", "controller"]
    labels = {key.removeprefix("org.opencontainers.image."): text for key, text in ran["Labels"].items()}
    assert labels["version"] == image.chart_version()
    assert labels["title"] == "akv-secret-store"
    assert labels["licenses"] == "Apache-2.0"
    assert len(labels["revision"].removesuffix("-dirty")) == 40


def test_image_contains_the_controller_without_tests_and_tools(own_layer: tarfile.TarFile) -> None:
    names = {name for name in own_layer.getnames() if not name.endswith("/")}
    # buildah leaves empty files and folders at its mount points of a RUN.
    assert {entry.name for entry in own_layer if entry.name.split("/")[0] != "app" and entry.size} == set()
    sources = {
        str(path.relative_to(ROOT)) for path in (ROOT / "controller").rglob("*.py") if "__pycache__" not in path.parts
    }
    assert {
        name.removeprefix("app/") for name in names if name.startswith("app/controller/") and name.endswith(".py")
    } == sources
    unwanted = ("tests", "tools", "pip", "test")
    assert not [name for name in names if any(word in unwanted for word in name.split("/"))]
    assert not any(entry.mode & 0o022 for entry in own_layer.getmembers() if entry.isfile()), "another user can write"


def test_image_contains_bytecode_of_all_modules_and_the_standard_library(own_layer: tarfile.TarFile) -> None:
    """The official images of Python have no bytecode, and the file system is read-only at run time."""
    compiled = [
        re.sub(r"\.cpython-\d+\.opt-2\.pyc$", ".py", name) for name in own_layer.getnames() if name.endswith(".pyc")
    ]
    assert all(name.startswith("app/bytecode/") and name.endswith(".py") for name in compiled)
    sources = {name for name in own_layer.getnames() if name.startswith("app/") and name.endswith(".py")}
    assert {f"app/bytecode/{name}" for name in sources} <= set(compiled)
    others = [name for name in compiled if not name.startswith("app/bytecode/app/")]
    for module in ("asyncio/base_events.py", "ssl.py", "subprocess.py", "encodings/utf_8.py"):
        assert any(name.endswith(f"/{module}") for name in others), module


def test_image_lacks_unused_dependencies(own_layer: tarfile.TarFile) -> None:
    assert not [name for name in own_layer.getnames() if name.startswith("app/charset_normalizer/")]


def test_test_image_also_contains_its_two_tools(built_test: image.BuiltImage) -> None:
    with tarfile.open(built_test.archive) as archive:
        digest = _read_json(archive, built_test.digest)["layers"][-1]["digest"]
        with tarfile.open(fileobj=archive.extractfile(_blob_path(digest))) as layer:
            sources = {name.removeprefix("app/") for name in layer.getnames() if name.endswith(".py")}
    folders = ("controller", "tools/keyvault_emulator", "tools/helm_test")
    expected = {str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    # The emulator's certificates need this module.
    assert {name for name in sources if name.startswith(("controller/", "tools/"))} == expected | {"tools/pki.py"}


def test_image_has_neither_a_compiler_nor_pip(built: image.BuiltImage) -> None:
    with tarfile.open(built.archive) as archive:
        for described in _read_json(archive, built.digest)["layers"]:
            with tarfile.open(fileobj=archive.extractfile(_blob_path(described["digest"]))) as layer:
                names = {Path(name).name for name in layer.getnames()}
                assert not names & {"gcc", "cc", "pip", "pip3", "apt-get"}


def test_unreachable_base_image_is_reported_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(image.ImageError) as caught:
        image.build_image(tmp_path / "none.tar", base="registry.invalid/python:3.13-slim")
    first, *_, last = str(caught.value).splitlines()
    assert first == "buildah build failed:"
    assert "registry.invalid" in str(caught.value)
    assert last == "if no registry is reachable, run: make image BASE=debian"


def test_image_is_smaller_than_its_limit(built: image.BuiltImage) -> None:
    assert built.own_packed < MAX_PACKED
