"""Write the files of a tool's output."""

import contextlib
from collections.abc import Mapping
from pathlib import Path


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts to files below a folder, and create missing folders.

    If a file cannot be written, remove what is new: incomplete output would look like a result. Raise `OSError` with
    the name of the file.
    """
    made: list[Path] = []
    path = folder
    try:
        _make_folder(folder, made)
        for name, text in files.items():
            path = folder / name
            _make_folder(path.parent, made)
            if not path.exists():
                made.append(path)
            path.write_text(text)
    except OSError as error:
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir() if each.is_dir() else each.unlink()
        raise OSError(error.errno, error.strerror, str(error.filename or path)) from error


def _make_folder(path: Path, made: list[Path]) -> None:
    """Create a folder with its parents, and add each new one to `made`."""
    if not path.exists():
        _make_folder(path.parent, made)
        path.mkdir()
        made.append(path)
