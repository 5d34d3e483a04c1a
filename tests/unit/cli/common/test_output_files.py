"""Test that output is either complete or absent."""

import errno
from pathlib import Path

import pytest

from tools.cli.common import output_files

FILES = {"a.yaml": "a", "patches/b.yaml": "b", "REPORT.md": "c"}


def fill_disk(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Let the disk be full when a file of that name is written."""
    write = Path.write_text

    def write_text(self: Path, text: str) -> int:
        if self.name == at:
            self.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, text)

    monkeypatch.setattr(Path, "write_text", write_text)


@pytest.mark.parametrize("name", ["a.yaml", "b.yaml", "REPORT.md"])
def test_full_disk_leaves_no_part_of_the_output(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, name)
    with pytest.raises(OSError, match=f"No space left on device: '.*{name}'"):
        output_files.write(tmp_path / "new" / "out", FILES)
    assert list(tmp_path.iterdir()) == []


def test_existing_files_and_folders_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("x")
    (tmp_path / "a.yaml").write_text("old")
    fill_disk(monkeypatch, "REPORT.md")
    with pytest.raises(OSError, match="No space"):
        output_files.write(tmp_path, FILES)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"a.yaml": "old", "mine": "x"}


def test_ctrl_c_leaves_no_part_of_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def write_text(self: Path, text: str) -> int:
        if self.name == "REPORT.md":
            raise KeyboardInterrupt
        return write(self, text)

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(KeyboardInterrupt):
        output_files.write(tmp_path / "out", FILES)
    assert list(tmp_path.iterdir()) == []


def test_all_files_are_written(tmp_path: Path) -> None:
    output_files.write(tmp_path / "out", FILES)
    assert {name: (tmp_path / "out" / name).read_text() for name in FILES} == FILES
