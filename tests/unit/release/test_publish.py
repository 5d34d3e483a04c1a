"""Test the arguments of cosign for publishing and verifying. tests/node/test_rehearsal.py runs the real cosign."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tools.cli.common import project
from tools.release import publish, verify
from tools.release.manifest import ReleasedArtifact, ReleaseManifest

ARTIFACT = ReleasedArtifact("image", "name", "1", "sha256:index", "oci:x", {"sha256:amd64": "sbom/amd64.json"})


DIGEST = "sha256:" + "0" * 64
LISTED = {"name": "image", "repository": "name", "tag": "1", "digest": DIGEST, "source": "oci:x"}


def make_artifacts_json(**fields: Any) -> str:
    """Return the artifacts.json of a release."""
    return json.dumps({"version": "1", "revision": "f00", "registry": "r.example", "artifacts": [LISTED]} | fields)


def make_attestation(predicate: Any) -> str:
    """Return an attestation as cosign prints it."""
    return json.dumps({"payload": base64.b64encode(json.dumps({"predicate": predicate}).encode()).decode()})


SIGNED = json.dumps([{"critical": {"type": verify.SIGNATURE}}])
BUILT = make_attestation({"buildDefinition": {"resolvedDependencies": [{"digest": {"gitCommit": "f00"}}]}})


@pytest.fixture
def cosign(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the output of cosign, by its subcommand."""
    printed = {"verify": SIGNED, "verify-attestation": BUILT}
    monkeypatch.setattr(verify, "run_cosign", lambda *arguments: printed[arguments[0]])
    return printed


@pytest.mark.usefixtures("cosign")
def test_signed_release_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "artifacts.json").write_text(make_artifacts_json())
    assert verify.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"valid: r.example/name@{DIGEST}\n"


def make_provenance(*sources: Any) -> str:
    """Return the attestation of a build with these sources."""
    return make_attestation({"buildDefinition": {"resolvedDependencies": list(sources)}})


ODD_SIGNATURES = ["", "null", "{}", "[{}]", "[1]", "<html>", "[]", '[{"critical": {}}]']
ODD_ATTESTATIONS = [
    *("", "null", "{}", "[]", '{"payload": 1}', '{"payload": "!"}', '{"payload": "bnVsbA=="}'),
    *(make_attestation(None), make_attestation({}), make_attestation([]), make_attestation({"buildDefinition": None})),
    *(
        make_provenance({"digest": None}),
        make_provenance({"digest": {"sha1": "f00"}}),
        make_provenance({"uri": "x\x1b[2J"}),
    ),
    # The commit must be that of the release. A part of it is not enough.
    *(make_provenance({"digest": {"gitCommit": ""}}), make_provenance({"digest": {"gitCommit": "f"}})),
]


@pytest.mark.parametrize(
    ("subcommand", "printed"),
    [*(("verify", each) for each in ODD_SIGNATURES), *(("verify-attestation", each) for each in ODD_ATTESTATIONS)],
)
def test_signature_or_provenance_of_another_form_is_not_valid(
    subcommand: str, printed: str, tmp_path: Path, cosign: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "artifacts.json").write_text(make_artifacts_json())
    cosign[subcommand] = printed
    assert verify.main([str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert f"r.example/name@{DIGEST}" in output.err
    assert output.out == ""


@pytest.mark.usefixtures("cosign")
@pytest.mark.parametrize("bill", ["", "<html>", "[" * 100_000, "{}"])
def test_bill_of_materials_of_another_form_is_not_valid(
    bill: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "artifacts.json").write_text(
        make_artifacts_json(artifacts=[{**LISTED, "bills": {DIGEST: "bill.json"}}])
    )
    (tmp_path / "bill.json").write_text(bill)
    assert verify.main([str(tmp_path)]) == 1
    assert "bill.json" in capsys.readouterr().err


def test_artifact_is_signed_and_attested_by_digest() -> None:
    commands = list(publish.cosign_commands(ARTIFACT, "r.example/akv", Path("p.json"), Path("folder")))
    assert commands == [
        ["sign", "r.example/akv/name@sha256:index"],
        ["attest", "--type=slsaprovenance1", "--predicate=p.json", "r.example/akv/name@sha256:index"],
        ["attest", "--type=cyclonedx", "--predicate=folder/sbom/amd64.json", "r.example/akv/name@sha256:amd64"],
    ]


def test_reference_is_by_digest() -> None:
    manifest = ReleaseManifest("1", "f00", "r.example/akv", (ARTIFACT,))
    assert manifest.reference(ARTIFACT) == "r.example/akv/name@sha256:index"


def test_without_a_key_only_the_release_workflow_is_trusted() -> None:
    metadata = project.read()
    assert verify.trust_flags(None, plain_http=False) == [
        f"--certificate-identity={metadata.repository}/.github/workflows/release.yml@refs/tags/v{metadata.version}",
        "--certificate-oidc-issuer=https://token.actions.githubusercontent.com",
    ]


@pytest.mark.parametrize("main", [publish.main, verify.main])
@pytest.mark.parametrize(
    "content",
    [
        *(None, "{}", "[]", '{"version": 1}', "\0", "[" * 100_000, b"\xff", b'{"version": "\xff"}'),
        make_artifacts_json(artifacts=[]),
        make_artifacts_json(registry="--key=/x"),
        make_artifacts_json(registry="r.example/\x1b[2J"),
        make_artifacts_json(registry="r.example\n"),
        make_artifacts_json(artifacts=[{**LISTED, "repository": "a b"}]),
        make_artifacts_json(artifacts=[{**LISTED, "digest": "sha256:f00"}]),
        make_artifacts_json(artifacts=[{**LISTED, "bills": {DIGEST: "../x"}}]),
        make_artifacts_json(artifacts=[{**LISTED, "bills": {DIGEST: "/etc/x"}}]),
    ],
)
def test_other_folder_is_refused(
    main: type, content: str | bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "artifacts.json").write_bytes(content.encode() if isinstance(content, str) else content)
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path} is not a folder of tools/package" in error
    assert error.removesuffix("\n").isprintable()


def test_failing_push_is_reported_and_signs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "artifacts.json").write_text(make_artifacts_json())
    script = tmp_path / "relocate.sh"
    script.write_text("#!/bin/sh\necho 'unauthorized' >&2\nexit 1\n")
    script.chmod(0o755)
    assert publish.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == "tools/publish: relocate.sh failed: unauthorized\n"
