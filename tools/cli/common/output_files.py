"""Write the files of a tool's output."""

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts to files below a folder, and create missing folders.

    If a file cannot be written, remove what is new, and leave existing files as they were: incomplete output would look
    like a result. Raise `OSError` with the name of the file.
    """
    made: list[Path] = []
    path = folder
    try:
        _make_folder(folder, made)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
            for name, text in files.items():
                path = folder / name
                fresh = Path(scratch, name)
                fresh.parent.mkdir(parents=True, exist_ok=True)
                fresh.write_text(text)
            # The disk has room for all files. Renaming needs none.
            for name in files:
                path = folder / name
                _make_folder(path.parent, made)
                if not path.exists():
                    made.append(path)
                Path(scratch, name).replace(path)
    except BaseException as error:  # Ctrl-C, too
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir() if each.is_dir() else each.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _make_folder(path: Path, made: list[Path]) -> None:
    """Create a folder with its parents, and add each new one to `made`."""
    if not path.exists():
        _make_folder(path.parent, made)
        path.mkdir()
        made.append(path)
