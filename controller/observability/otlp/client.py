"""Send requests to the collector over mutual TLS, with the current certificate, key and CA of a folder.

The kubelet replaces all files of a volume by one rename. The client checks the files before each request. If they have
changed, it opens a new connection with the renewed certificate.
"""

import ssl
from pathlib import Path

import aiohttp

from controller.observability.otlp import wire
from controller.runtime.threads.resolver import SystemResolver

CERTIFICATE, KEY, CA = "tls.crt", "tls.key", "ca.crt"
SECONDS = 10
# Far above the size of a collector's answers.
_MAX_ANSWER = 2**16
_FILES_HINT = "see the Certificate and the Bundle, or the Secret and the ConfigMap that the chart's values name"


class UnsentError(Exception):
    """No answer arrived. The message has the cause and the next step."""


class CollectorClient:
    """A client of one collector."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.url = endpoint.rstrip("/").removesuffix(wire.PATH) + wire.PATH
        self._folder = folder
        self._resolver = SystemResolver(1)  # there is one host
        self._files: tuple[bytes, ...] = ()
        self._session: aiohttp.ClientSession | None = None

    async def post_body(self, body: bytes) -> wire.CollectorAnswer:
        """Return the collector's answer. Raise `UnsentError` if there is none."""
        session = await self._get_session()
        try:
            async with session.post(
                self.url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as response:
                content = bytearray()
                async for part in response.content.iter_any():
                    content += part
                    if len(content) > _MAX_ANSWER:
                        break
                return wire.CollectorAnswer(response.status, response.headers, bytes(content))
        except (aiohttp.ClientError, OSError) as error:
            raise UnsentError(explain_failure(error, self.url)) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()
            self._session = None

    async def _get_session(self) -> aiohttp.ClientSession:
        paths = [self._folder / name for name in (CERTIFICATE, KEY, CA)]
        try:
            files = tuple(path.read_bytes() for path in paths)
            if self._session and files == self._files:
                return self._session
            tls = ssl.create_default_context(cafile=str(self._folder / CA))
            # Without a password, OpenSSL would ask for one on the terminal if the key is encrypted.
            tls.load_cert_chain(self._folder / CERTIFICATE, self._folder / KEY, password="")
        except ssl.SSLError as error:
            reason = (error.reason or "not PEM").replace("_", " ").lower()
            raise UnsentError(
                f"{self._folder}: the certificate, its key or the CA cannot be used ({reason}); {_FILES_HINT}"
            ) from error
        except OSError as error:
            raise UnsentError(f"{error.filename}: {error.strerror}; {_FILES_HINT}") from error
        await self.close()
        self._files = files
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=1, resolver=self._resolver),
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session


def explain_failure(error: Exception, url: str) -> str:
    """Return why no answer arrived, in one sentence with the next step."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"{url}: the name {error.host} does not resolve; check logs.otlp.endpoint"
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{url}: the collector's certificate is not trusted ({cause.verify_message}); put its CA into {CA}"
    if isinstance(error, TimeoutError):
        return f"{url} did not answer within {SECONDS} s; check the route to it, and network policies"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"{url} cannot be reached ({error.strerror}); check that the collector runs and listens there"
    # The error of a server that does not accept the client's certificate. In TLS 1.3 it follows the handshake.
    reason = getattr(error, "strerror", None) or type(error).__name__
    return f"{url}: the collector ends the connection ({reason}); check that it trusts the CA of {CERTIFICATE}"
