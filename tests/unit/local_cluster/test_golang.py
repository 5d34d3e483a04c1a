"""Test the choice of the Go compiler: that of the machine, or the one from a wheel."""

from pathlib import Path

import pytest

from tests.unit.local_cluster.fake_go import FAKE_GO, FakeGo
from tools.local_cluster.programs import cache, golang, versions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("go1.26.8", (1, 26, 8)),
        ("go1.27", (1, 27, 0)),
        ("go1.27rc1 X:nocoverageredesign", (1, 27, 0)),
        ("x", None),
    ],
)
def test_go_version_is_parsed(text: str, expected: tuple[int, int, int] | None) -> None:
    assert versions.go_version(text) == expected


def test_suitable_go_of_the_machine_is_used(fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("GOOS", "windows")
    found = golang.find_go()
    assert found.program == fake_go.program
    assert found.env["GOTOOLCHAIN"] == "local"
    assert not {"GOFLAGS", "GOOS"} & found.env.keys()


@pytest.mark.parametrize("machine", ["none", "go1.25.9", "gibberish"])
def test_go_from_the_wheel_replaces_a_missing_or_unsuitable_one(
    machine: str, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = FakeGo(fake_go.folder / "wheel")
    if machine == "none":
        fake_go.program.unlink()
    fake_go.set("version", machine)

    def install(folder: Path) -> None:
        (folder / "go" / "bin").mkdir(parents=True)
        script = FAKE_GO.replace("$FAKE/version", f"{wheel.folder}/version")
        (folder / "go" / "bin" / "go").write_text(script)
        (folder / "go" / "bin" / "go").chmod(0o755)

    monkeypatch.setattr(golang, "install_wheel", install)
    found = golang.find_go()
    assert found.program.is_relative_to(cache.cache_root())
    assert found.program.parts[-3:] == ("go", "bin", "go")
    assert found.env["GOROOT"] == str(found.program.parents[1])


def test_wheel_is_pinned_by_hash_and_has_no_address() -> None:
    text = golang.WHEEL.read_text()
    assert text.count("--hash=sha256:") == 2
    assert "://" not in text
