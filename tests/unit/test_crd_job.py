"""The upgrade Job's program: what it refuses, what it says, its exit codes. Its work: tests/cluster/test_crds.py."""

from pathlib import Path

import pytest

from controller import crds


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no"),
        ("metadata: [", "is not a CustomResourceDefinition"),
        ("just text", "is not a CustomResourceDefinition"),
        ("metadata: {name: [a]}", "is none of secretsyncs"),
        ("metadata: {name: {a: b}}", "is none of secretsyncs"),
        # Flow and block style, as a value and as a key: PyYAML recurses into all of them.
        ("metadata: " + "[" * 9_900 + "]" * 9_900, "is not a CustomResourceDefinition: it is nested too deeply"),
        ("{a: " * 9_900 + "b" + "}" * 9_900, "is not a CustomResourceDefinition: it is nested too deeply"),
        ("- " * 1_500 + "a", "is not a CustomResourceDefinition: it is nested too deeply"),
        ("? " * 1_500 + "a", "is not a CustomResourceDefinition: it is nested too deeply"),
        ("metadata: {name: somethings.example.com}", "somethings.example.com is none of secretsyncs"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(
    content: str | None, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "a.yaml").write_text(content)
    assert crds.main([str(tmp_path)], {}) == 2
    assert message in caplog.text


def test_a_missing_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert crds.main([str(tmp_path / "none")], {}) == 2
    assert "is not a folder" in caplog.text


def test_no_way_to_the_api(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.yaml").write_text("metadata: {name: secretsyncs.secret-sync.x-k8s.io}")
    assert crds.main([str(tmp_path)], {"KUBECONFIG": str(tmp_path / "none")}) == 1
    assert "KUBECONFIG names" in caplog.text


def test_help_tells_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        crds.main(["--help"])
    assert "superset" in capsys.readouterr().out
