"""Find files of manifests, and normalize their contents."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 10_000
"""The most files that one call of a tool reads."""


def list_manifest_files(folder: Path) -> list[Path]:
    """Return the YAML and JSON files below a folder, sorted. Do not follow links to folders."""
    return sorted(Path(where, name) for where, _, names in os.walk(folder) for name in names if name.endswith(SUFFIXES))


def without_nulls(value: Any) -> Any:
    """Return a manifest without the fields that are null, such as `cloudName:`. The API server drops them, too."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
