"""Download files of official releases, check and limit them, and give up as soon as they arrive too slowly.

A source that does not work must delay the user by at most three seconds, because a build can follow. Each file has one
deadline for everything that can hang: name resolution, connection, TLS, redirects and data. The deadline moves while
data arrives at a useful rate. All files are downloaded at the same time, so that all deadlines start together.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp

from controller.runtime.threads.resolver import SystemResolver
from tools.local_cluster.errors import DownloadError
from tools.local_cluster.programs.progress import ProgressLine
from tools.local_cluster.programs.releases import ReleaseFile, is_safe, published_checksum

PATIENCE = 2.25
"""Seconds that a file gets for each USEFUL_BYTES. The rest of the three seconds is for the start of this program."""
USEFUL_BYTES = 64 * 1024
"""If each of four files needs longer for them, a build is about as fast."""
CONNECT_SECONDS = 1.5
MAX_FILE_BYTES = 256 * 2**20  # the largest, kube-apiserver, has 120 MB
MAX_CHECKSUMS_BYTES = 64 * 1024  # etcd's, of all its files, have 4 KiB
MAX_REDIRECTS = 5
LOOKUP_THREADS = 16  # half of them run at once: more than the sources and the hosts that they redirect to
_CHUNK_BYTES = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)


def fetch(addresses: Mapping[ReleaseFile, str], pins: Mapping[str, str], folder: Path, doing: str) -> dict[str, str]:
    """Download each artifact as `folder`/<its name>. Return the checksums by path. Raise DownloadError.

    `addresses` are those of the sources, `pins` the checksums that are known already. `doing` is the beginning of
    the progress line.
    """
    checksums = asyncio.run(_fetch_all(addresses, pins, folder, ProgressLine(doing)))
    for artifact in addresses:
        # After a power failure, the cache must not hold the stamp of a folder without all of its files.
        with (folder / artifact.name).open("rb") as file:
            os.fsync(file.fileno())
    return checksums


async def _fetch_all(
    addresses: Mapping[ReleaseFile, str], pins: Mapping[str, str], folder: Path, line: ProgressLine
) -> dict[str, str]:
    received = _ReceivedBytes()
    reporter = asyncio.create_task(_report_progress(received, line))
    expected, actual = {}, {}
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=SystemResolver(LOOKUP_THREADS)),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,  # a checksum is that of the bytes which were sent
                trust_env=True,  # the usual variables for proxies, and ~/.netrc
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            for artifact, source in addresses.items():
                file = _FileTransfer(session, source, artifact.path, received)
                actual[artifact] = group.create_task(file.save(folder / artifact.name))
                if artifact.path not in pins:
                    checksums = _FileTransfer(session, source, artifact.checksums, received)
                    expected[artifact] = group.create_task(checksums.read_checksum(artifact.name))
    except BaseExceptionGroup as errors:
        line.finish("given up")
        raise errors.exceptions[0] from errors  # the first failure has ended the other downloads
    finally:
        reporter.cancel()
    line.finish("done")
    for artifact, source in addresses.items():
        wanted, where = pins.get(artifact.path), "pinned in this repository"
        if wanted is None:
            wanted, where = expected[artifact].result(), "published beside it"
        if actual[artifact].result() != wanted:
            raise DownloadError(
                f"{source}/{artifact.path}: the file is damaged, or it is another file: its SHA-256 is"
                f" {actual[artifact].result()}, the one {where} is {wanted}"
            )
    return {artifact.path: checksum.result() for artifact, checksum in actual.items()}


class _ReceivedBytes:
    """The bytes of all files together."""

    def __init__(self) -> None:
        self.bytes = 0
        self.expected = 0


async def _report_progress(received: _ReceivedBytes, line: ProgressLine) -> None:
    while True:
        await asyncio.sleep(line.pause)
        line.show(f"{received.bytes / 1e6:.0f} of {received.expected / 1e6:.0f} MB")


class _UnusableError(Exception):
    """The answer of a source cannot be used. The message says why."""


class _FileTransfer:
    """The download of one file: `path` from the `source`."""

    def __init__(self, session: aiohttp.ClientSession, source: str, path: str, all_files: _ReceivedBytes) -> None:
        self._session, self._source = session, source
        self._address = f"{source}/{path}"
        self._all = all_files
        self._received = 0
        self._deadline = asyncio.timeout(PATIENCE)

    @contextlib.asynccontextmanager
    async def _open_source(self) -> AsyncIterator[aiohttp.ClientResponse]:
        """Request the file until the deadline. Raise `DownloadError` for every failure until the end of the block."""
        try:
            async with self._deadline, _get_file(self._session, self._address) as response:
                yield response
        except (_UnusableError, aiohttp.ClientError, OSError, ValueError) as error:
            cause = self._explain_slowness() if self._deadline.expired() else _explain_cause(error)
            timed_out = [self._source] if isinstance(error, TimeoutError) else []
            raise DownloadError(_to_printable(f"{self._address}: {cause}"), timed_out=timed_out) from error

    def _explain_slowness(self) -> str:
        amount = f"fewer than {USEFUL_BYTES // 1024} KiB" if self._received else "nothing"
        return f"{amount} arrived within {PATIENCE:g} s"

    async def read_checksum(self, name: str) -> str:
        """Return the checksum of the file `name`; this file is one of checksums."""
        text = bytearray()
        async with self._open_source() as response:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                text += chunk
                if len(text) > MAX_CHECKSUMS_BYTES:
                    raise _UnusableError(f"the file is larger than {MAX_CHECKSUMS_BYTES // 1024} KiB")
            found = published_checksum(text.decode(errors="replace"), name)
            if found is None:
                raise _UnusableError(f"it holds no SHA-256 checksum of {name}")
        return found

    async def save(self, target: Path) -> str:
        """Write the file to `target`. Return its checksum."""
        digest = hashlib.sha256()
        marked = 0
        async with self._open_source() as response:
            announced = response.content_length or 0
            self._check_size(announced)
            self._all.expected += announced
            with target.open("wb") as file:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    self._received += len(chunk)
                    self._all.bytes += len(chunk)
                    self._check_size(self._received)
                    digest.update(chunk)
                    file.write(chunk)
                    if self._received - marked >= USEFUL_BYTES:
                        marked = self._received
                        self._deadline.reschedule(asyncio.get_running_loop().time() + PATIENCE)
        return digest.hexdigest()

    def _check_size(self, size: int) -> None:
        if size > MAX_FILE_BYTES:
            raise _UnusableError(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB")


@contextlib.asynccontextmanager
async def _get_file(session: aiohttp.ClientSession, address: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """Get a file. Redirects are followed here, because none may lead to an address that is not safe."""
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(address, allow_redirects=False) as response:
            if response.status == HTTPStatus.OK:
                yield response
                return
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                raise _UnusableError(f"the server answered with status {response.status}")
            source, address = address, urljoin(address, location)
            if not is_safe(address) or urlsplit(address).scheme not in ("https", urlsplit(source).scheme):
                raise _UnusableError(f"it redirects to {_origin_of(address)}, which is not https")
    raise _UnusableError(f"it redirects more than {MAX_REDIRECTS} times")


def _origin_of(address: str) -> str:
    # The query of a redirect can be a signature with which anyone can download the file.
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}"


def _explain_cause(error: Exception) -> str:
    match error:
        case _UnusableError():
            return str(error)
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} cannot be resolved ({_explain_os_error(error.os_error)})"
        case aiohttp.ClientConnectorCertificateError():
            return f"{error.certificate_error}; SSL_CERT_FILE names the certificates to trust"
        case aiohttp.ClientProxyConnectionError():
            return f"the proxy {error.host}:{error.port} cannot be reached ({_explain_os_error(error.os_error)})"
        case aiohttp.ClientConnectorError():
            return f"{error.host}:{error.port} cannot be reached ({_explain_os_error(error.os_error)})"
        case aiohttp.ConnectionTimeoutError():
            return f"there was no connection within {CONNECT_SECONDS:g} s"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered with status {error.status}"
        case aiohttp.ClientPayloadError():
            return "the connection ended before the file was complete"
        case aiohttp.ServerDisconnectedError():
            return "the server ended the connection without an answer"
        case OSError():
            return _explain_os_error(error)
        case _:
            return f"the answer cannot be read ({error})"


def _explain_os_error(error: OSError) -> str:
    return error.strerror or str(error)


def _to_printable(text: str) -> str:
    """Return the text as one line without characters that control a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:1000]
