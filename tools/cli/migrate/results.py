"""Write the manifests, patches and report of a migration."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.cli.common import output_files, templating
from tools.cli.common.command import BadInput
from tools.cli.migrate.migration_report import MANIFESTS, patch_file
from tools.cli.migrate.objects import Manifest


def write_results(folder: Path, manifests: Iterable[Manifest], patches: Sequence[Manifest], report: str) -> None:
    """Write the files of a migration into a folder that is new or empty.

    Raise `BadInput` for another folder. Raise `OSError` if a file cannot be written; then no new file remains.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"--output {folder} exists and is not an empty folder")
    files = {patch_file(patch): templating.to_ascii_yaml(patch) for patch in patches}
    output_files.write(folder, {MANIFESTS: to_documents(manifests), **files, "REPORT.md": report})


def to_documents(manifests: Iterable[Manifest]) -> str:
    """Return manifests as one YAML text."""
    return "---\n".join(map(templating.to_ascii_yaml, manifests))
