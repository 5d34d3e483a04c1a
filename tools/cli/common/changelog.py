"""Read CHANGELOG.md, which follows Keep a Changelog 1.1.0: one section per version, the newest first."""

import datetime
import re

UNRELEASED = "Unreleased"
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
"""The headings that a section can have, in their order."""
_HEADING = re.compile(r"## \[(?P<name>[^\]]+)\](?: - (?P<date>\S+))?")
_LINK = re.compile(r"\[[^\]]+\]: \S+")


class ChangelogError(Exception):
    """The changelog cannot be used; the message says why."""


def entries(text: str, version: str, *, released: bool = False) -> dict[str, list[str]]:
    """Return the entries of a version by kind.

    A version without a section of its own has the entries of the section "Unreleased". With `released`, the version
    needs its own section with a date.
    """
    found = sections(text)
    if released and version not in found:
        raise ChangelogError(f'CHANGELOG.md has no section "## [{version}] - YYYY-MM-DD": rename "{UNRELEASED}" to it')
    return found.get(version) or found.get(UNRELEASED, {})


def sections(text: str) -> dict[str, dict[str, list[str]]]:
    """Return the entries of every section by version and kind."""
    found: dict[str, dict[str, list[str]]] = {}
    entry: list[str] | None = None
    version = kind = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            version, kind, entry = _parse_version(line, number), "", None
            if version in found:
                raise ChangelogError(f'CHANGELOG.md:{number}: the section "{version}" exists twice')
            found[version] = {}
        elif line.startswith("### "):
            kind, entry = line.removeprefix("### "), None
            if kind not in KINDS:
                raise ChangelogError(f'CHANGELOG.md:{number}: "{kind}" is not a kind of change: use {", ".join(KINDS)}')
            found[version].setdefault(kind, [])
        elif line.startswith("- ") and kind:
            entry = [line.removeprefix("- ")]
            found[version][kind].append(entry[0])
        elif line.startswith("  ") and entry is not None:
            found[version][kind][-1] += f" {line.strip()}"
        elif version and line.strip() and not _LINK.fullmatch(line):
            raise ChangelogError(f"CHANGELOG.md:{number}: an entry begins with '- ' below a heading '### Kind': {line}")
    return found


def to_markdown(changes: dict[str, list[str]]) -> str:
    """Return the entries as the body of a section."""
    return "\n\n".join(
        f"### {kind}\n\n" + "\n".join(f"- {entry}" for entry in changes[kind]) for kind in KINDS if changes.get(kind)
    )


def _parse_version(line: str, number: int) -> str:
    match = _HEADING.fullmatch(line)
    if not match or (match["date"] is None) != (match["name"] == UNRELEASED):
        raise ChangelogError(f'CHANGELOG.md:{number}: use "## [{UNRELEASED}]" or "## [VERSION] - YYYY-MM-DD": {line}')
    if match["date"]:
        try:
            datetime.date.fromisoformat(match["date"])
        except ValueError as error:
            raise ChangelogError(f"CHANGELOG.md:{number}: {match['date']} is not a date: use YYYY-MM-DD") from error
    return match["name"]
