"""Read from pyproject.toml where the project is hosted, who maintains it and where it publishes."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[3]
REGISTRY_HOST = "ghcr.io"
"""The registry that the code host offers to each owner of a repository."""


@dataclass(frozen=True)
class ProjectInfo:
    """The table `[project]` of pyproject.toml, as far as a release shows it."""

    name: str
    version: str
    description: str
    repository: str
    """The address of the repository, which ends with owner and name."""
    maintainers: tuple[str, ...]

    @property
    def owner(self) -> str:
        """The owner of the repository."""
        return urlsplit(self.repository).path.split("/")[1]

    @property
    def registry(self) -> str:
        """The registry namespace of the owner, to which a release publishes."""
        return f"{REGISTRY_HOST}/{self.owner.lower()}"

    def file(self, path: str, *, raw: bool = False) -> str:
        """Return the address of a file of the repository at the version's tag; `raw` without the page around it."""
        kind = "raw" if raw else "blob"
        return f"{self.repository}/{kind}/v{self.version}/{path}"


def read() -> ProjectInfo:
    """Read pyproject.toml."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return ProjectInfo(
        name=table["name"],
        version=table["version"],
        description=table["description"],
        repository=table["urls"]["Repository"],
        maintainers=tuple(person["name"] for person in table["maintainers"]),
    )
