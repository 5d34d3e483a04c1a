"""Test the contents of a release without helm: artifacts, inventories and bills of materials."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.oci_archive import BASE, list_installed_files, write_archive
from tools.codegen import values
from tools.release import image_contents, layout, oci, sbom
from tools.release.image_contents import InstalledPackage

PINNED = (
    sbom.PinnedRequirement("attrs", "26.1.0", ("aa" * 32,)),
    sbom.PinnedRequirement("pyjwt", "2.15.1", ("bb" * 32, "cc" * 32)),
)
HASH = {
    "type": "object",
    "required": ["alg", "content"],
    "properties": {"alg": {"const": "SHA-256"}, "content": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
    "additionalProperties": False,
}
COMPONENT: dict[str, Any] = {
    "type": "object",
    "required": ["type", "name"],
    "additionalProperties": False,
    "properties": {
        "type": {"enum": ["application", "library", "container", "file"]},
        "bom-ref": {"type": "string", "minLength": 1},
        "name": {"type": "string"},
        "version": {"type": "string", "maxLength": 1024},
        "purl": {"type": "string", "pattern": "^pkg:[a-z]+/"},
        "hashes": {"type": "array", "items": HASH},
        "licenses": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["license"],
                "properties": {"license": {"oneOf": [{"required": ["id"]}, {"required": ["name"]}]}},
                "additionalProperties": False,
            },
        },
        "externalReferences": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["url", "type"],
                "properties": {"url": {}, "type": {"const": "distribution"}, "comment": {}, "hashes": {"items": HASH}},
                "additionalProperties": False,
            },
        },
    },
}
# The parts of CycloneDX's bom-1.6.schema.json that the bills of this project use.
BILL: dict[str, Any] = {
    "type": "object",
    "required": ["bomFormat", "specVersion", "serialNumber", "version", "metadata", "components"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "http://cyclonedx.org/schema/bom-1.6.schema.json"},
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.6"},
        "serialNumber": {
            "pattern": "^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        },
        "version": {"type": "integer", "minimum": 1},
        "metadata": {"type": "object", "properties": {"component": COMPONENT}, "additionalProperties": False},
        "components": {"type": "array", "items": COMPONENT},
        "dependencies": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["ref"],
                "properties": {"ref": {"type": "string"}, "dependsOn": {"type": "array", "uniqueItems": True}},
                "additionalProperties": False,
            },
        },
    },
}


def read_components(bill: sbom.Json) -> dict[str, Any]:
    jsonschema.validate(bill, BILL)
    found = {one["bom-ref"]: one for one in bill["components"]}
    assert len(found) == len(bill["components"]), "two components have the same bom-ref"
    [dependency] = bill["dependencies"]
    assert set(dependency["dependsOn"]) == found.keys()
    return found


def test_archive_does_not_depend_on_the_machine() -> None:
    packed = oci.pack_tgz({"b": b"2", "a/c": b"1"})
    assert packed == oci.pack_tgz({"a/c": b"1", "b": b"2"})
    assert packed[4:8] == b"\0\0\0\0", "the header of gzip has a time"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as tar:
        entries = [(one.name, one.mtime, one.uid, one.gid, one.uname, one.mode) for one in tar]
    assert entries == [("a/c", 0, 0, 0, "", 0o644), ("b", 0, 0, 0, "", 0o644)]


def test_requirements_are_read_with_their_hashes() -> None:
    text = f"# pinned\nattrs==26.1.0 \\\n    --hash=sha256:{'aa' * 32}\npyjwt[crypto]==2.15.1 \\\n"
    text += f"    --hash=sha256:{'bb' * 32} \\\n    --hash=sha256:{'cc' * 32}\n"
    assert tuple(sbom.parse_requirements(text)) == PINNED


def test_bill_of_materials_has_each_requirement_of_the_image(tmp_path: Path) -> None:
    found = image_contents.read_inventory(write_archive(tmp_path / "image.tar"))
    pinned = sbom.parse_requirements((Path(__file__).parents[3] / "requirements" / "controller.txt").read_text())
    bill = read_components(sbom.image_bill("akv-secret-store", "0.1.0", pinned, {}, found))
    for one in pinned:
        component = bill[f"pkg:pypi/{one.name}@{one.version}"]
        assert component["licenses"] == [{"license": {"name": "MIT"}}]
        [reference] = component["externalReferences"]
        assert [item["content"] for item in reference["hashes"]] == list(one.hashes)
    assert "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12" in bill
    assert not any("gone" in reference or "pip" in reference for reference in bill)


def test_bill_of_materials_without_an_image_lists_pinned_packages() -> None:
    bill = sbom.image_bill("akv-secret-store", "0.1.0", PINNED, {"attrs": "MIT"}, None)
    found = read_components(bill)
    assert found["pkg:pypi/attrs@26.1.0"]["licenses"] == [{"license": {"name": "MIT"}}]
    assert "licenses" not in found["pkg:pypi/pyjwt@2.15.1"]
    assert "hashes" not in bill["metadata"]["component"]


def test_image_with_other_packages_is_refused(tmp_path: Path) -> None:
    files = list_installed_files()
    del files[next(path for path in files if path.startswith("app/attrs"))]
    files["app/surprise-1.0.dist-info/METADATA"] = b"Name: surprise\nVersion: 1.0\n"
    found = image_contents.read_inventory(write_archive(tmp_path / "image.tar", BASE, files))
    pinned = sbom.parse_requirements((Path(__file__).parents[3] / "requirements" / "controller.txt").read_text())
    with pytest.raises(
        sbom.DisagreeError, match=r"attrs \(pinned: .*; in the image: not at all\), surprise \(pinned: not"
    ):
        sbom.image_bill("akv-secret-store", "0.1.0", pinned, {}, found)


def test_later_layer_replaces_files_of_an_earlier_one(tmp_path: Path) -> None:
    old, new = b"Name: a\nVersion: 1\n", b"Name: a\nVersion: 2\n"
    layers = (
        {
            "x/a.dist-info/METADATA": old,
            "y/b.dist-info/METADATA": b"Name: b\nVersion: 1\n",
            "z/c.dist-info/METADATA": old,
        },
        {"x/a.dist-info/METADATA": new, "y/.wh..wh..opq": b"", ".wh.z": b""},
    )
    assert image_contents.read_inventory(write_archive(tmp_path / "image.tar", *layers)).python == (
        InstalledPackage("a", "2"),
    )


@pytest.mark.parametrize(
    ("fields", "license_name"),
    [
        ("License-Expression: MIT\nLicense: other", "MIT"),
        ("License: BSD", "BSD"),
        ("License: The whole\n  text\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
        ("Classifier: Programming Language :: Python", ""),
    ],
)
def test_license_is_read_from_each_field_that_can_contain_it(fields: str, license_name: str) -> None:
    assert image_contents.python_package(f"Name: Some_Name\nVersion: 1\n{fields}\n\nText").license == license_name


def test_bill_of_materials_of_the_chart_has_files_and_image() -> None:
    files = {"Chart.yaml": b"name: x", "templates/a.yaml": b""}
    found = read_components(sbom.chart_bill("akv-secret-store", "0.1.0", files, b"tgz", "r.example/x@sha256:1"))
    assert found.keys() == {"file:Chart.yaml", "file:templates/a.yaml", "image:r.example/x@sha256:1"}
    assert f"sha256:{found['file:Chart.yaml']['hashes'][0]['content']}" == oci.compute_digest(b"name: x")


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        (values.ImageReference(), "ghcr.io/akv-secret-store/akv-secret-store:0.1.0"),
        (values.ImageReference(registry="r.example:5000/a/"), "r.example:5000/a/akv-secret-store:0.1.0"),
        (values.ImageReference(tag="7", registry="r.example"), "r.example/akv-secret-store:7"),
        (values.ImageReference(registry="", tag="7", digest="sha256:1"), "akv-secret-store@sha256:1"),
    ],
)
def test_image_reference_equals_that_of_the_templates(image: values.ImageReference, reference: str) -> None:
    assert image.reference("0.1.0") == reference


def test_release_notes_have_the_entries_of_the_changelog() -> None:
    changes = "### Added\n\n- One"
    source = layout.ReleaseSource(
        "0.2.0", "f00", {"Chart.yaml": b"description: x"}, values.ChartValues(), PINNED, {}, changes
    )
    notes = layout.build_files(source)["RELEASE.md"].decode()
    assert notes.endswith("## Changes\n\n### Added\n\n- One\n")
    assert "This release was made from f00." in notes


def test_json_of_artifacts_is_compact() -> None:
    assert oci.to_json({"a": ["ä"]}) == '{"a":["ä"]}'.encode()
    assert json.loads(oci.to_json({"a": 1})) == {"a": 1}
