"""Test the release notes that are made from CHANGELOG.md, and the refusal of malformed lines."""

from pathlib import Path

import pytest

from tools.cli.common import changelog
from tools.images import image
from tools.release import package

ROOT = Path(__file__).parents[4]
TEXT = """\
# Changelog

Introduction.

## [Unreleased]

### Fixed

- One,
  on two lines.
- Two.

## [0.2.0] - 2026-11-28

### Added

- Three.

[0.2.0]: https://code.example/v0.2.0
"""


def test_version_has_its_own_entries() -> None:
    assert changelog.entries(TEXT, "0.2.0", released=True) == {"Added": ["Three."]}


def test_version_without_section_has_the_unreleased_entries() -> None:
    assert changelog.entries(TEXT, "0.3.0") == {"Fixed": ["One, on two lines.", "Two."]}


def test_released_version_needs_its_own_section() -> None:
    with pytest.raises(changelog.ChangelogError, match=r'no section "## \[0.3.0\] - YYYY-MM-DD"'):
        changelog.entries(TEXT, "0.3.0", released=True)


def test_entries_become_markdown_in_the_order_of_kinds() -> None:
    text = changelog.to_markdown({"Fixed": ["One."], "Added": ["Two.", "Three."]})
    assert text == "### Added\n\n- Two.\n- Three.\n\n### Fixed\n\n- One."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("## 0.1.0", 'use "## [Unreleased]" or'),
        ("## [0.1.0]", 'use "## [Unreleased]" or'),
        ("## [Unreleased] - 2026-01-01", 'use "## [Unreleased]" or'),
        ("## [0.1.0] - 2026-02-30", "2026-02-30 is not a date"),
        ("## [0.2.0] - 2026-11-27", 'the section "0.2.0" exists twice'),
        ("### New", '"New" is not a kind of change'),
        ("Text between entries", "an entry begins with '- '"),
    ],
)
def test_malformed_line_is_refused_with_its_number(line: str, message: str) -> None:
    with pytest.raises(changelog.ChangelogError) as raised:
        changelog.sections(f"{TEXT}{line}\n")
    assert f"CHANGELOG.md:{len(TEXT.splitlines()) + 1}: " in str(raised.value)
    assert message in str(raised.value)


def test_changelog_of_the_project_is_well_formed_and_has_entries() -> None:
    assert changelog.entries((ROOT / "CHANGELOG.md").read_text(), image.chart_version())


@pytest.mark.parametrize(("tag", "message"), [("v9.9.9", "the tag must be v"), ("0.1.0", "the tag must be v")])
def test_package_refuses_a_tag_of_another_version(
    tag: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert package.main(["--changed", "--tag", tag, "--output", str(tmp_path / "release")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_package_refuses_a_tag_without_a_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "chart_version", lambda: "0.9.0")
    assert package.main(["--changed", "--tag", "v0.9.0", "--output", str(tmp_path / "release")]) == 1
    assert 'no section "## [0.9.0] - YYYY-MM-DD"' in capsys.readouterr().err
