"""Unpack one program from the archive of a release."""

import gzip
import io
import shutil
import tarfile
import zlib
from pathlib import Path

from tools.local_cluster.errors import DownloadError

MAX_BYTES = 256 * 2**20
"""Unpacked. The archive of etcd has three programs, about 75 MB."""


def extract(archive: Path, member: str, target: Path) -> None:
    """Write the regular file `member` of a .tar.gz to `target`. Raise DownloadError.

    No name in the archive becomes a path of this machine. All other members are skipped.
    """
    try:
        with gzip.open(archive) as unpacked, tarfile.open(fileobj=_BoundedReader(unpacked), mode="r|") as tar:
            for found in tar:
                if found.name == member:
                    _copy_member(tar, found, target)
                    return
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, _TooLargeError) as error:
        target.unlink(missing_ok=True)
        raise DownloadError(f"the archive cannot be unpacked: {error or type(error).__name__}") from error
    raise DownloadError(f"the archive holds no {member}")


def _copy_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if source is None:
        raise DownloadError(f"in the archive, {member.name} is not a regular file")
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


class _TooLargeError(Exception):
    pass


class _BoundedReader(io.RawIOBase):
    """Reads at most MAX_BYTES, because a small archive may unpack to any size."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left = MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _TooLargeError(f"it unpacks to more than {MAX_BYTES // 2**20} MiB")
        return data
