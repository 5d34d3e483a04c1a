"""A replacement for `skopeo copy` from an OCI layout or archive into a registry, as relocate.sh calls it.

tests/node/test_package.py uses the real skopeo, if it is installed.
"""

import sys
import tarfile
from pathlib import Path

from tests.chart.registry import Registry


def read_layout(source: str) -> dict[str, bytes]:
    """Return the files of `oci:FOLDER:TAG` or `oci-archive:FILE`."""
    kind, _, place = source.partition(":")
    if kind == "oci-archive":
        with tarfile.open(place) as archive:
            files = {member.name: archive.extractfile(member) for member in archive}
            return {name: file.read() for name, file in files.items() if file}
    folder = Path(place.rpartition(":")[0])
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main(words: list[str]) -> None:
    """Copy one image."""
    command, *_, source, target = words
    assert command == "copy"
    address, _, rest = target.removeprefix("docker://").partition("/")
    repository, _, tag = rest.rpartition(":")
    Registry(address).push(repository, read_layout(source), tag)


if __name__ == "__main__":
    main(sys.argv[1:])
