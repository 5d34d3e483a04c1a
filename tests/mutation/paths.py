"""Define the paths that the mutation tests use."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTROLLER = ROOT / "controller"
BUILD = ROOT / "build" / "mutation"


def module_name(path: Path) -> str:
    """Return the name of a file's module below `controller`, for example `runtime.backoff`."""
    return ".".join(path.relative_to(CONTROLLER).with_suffix("").parts)


def module_path(name: str) -> Path:
    """Return the file of a module below `controller`."""
    return CONTROLLER.joinpath(*name.split(".")).with_suffix(".py")
