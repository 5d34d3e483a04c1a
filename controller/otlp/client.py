"""Requests to the collector over mutual TLS, with the certificate, key and CA that lie in a folder now.

A kubelet changes all files of a volume by one rename. They are looked at before each request, so that a renewed
certificate is used at once, and an old connection ends with the certificate that it was made with.
"""

import ssl
from pathlib import Path

import aiohttp

from controller.otlp import wire

CERTIFICATE, KEY, CA = "tls.crt", "tls.key", "ca.crt"
SECONDS = 10
# More than a collector ever says.
_MOST_ANSWER = 2**16
_WHENCE = "see the Certificate and the Bundle, or the Secret and the ConfigMap that the chart's values name"


class UnsentError(Exception):
    """No answer came; the message says why, and what to look at."""


class Client:
    """Sends to one collector."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self._url = endpoint.rstrip("/").removesuffix(wire.PATH) + wire.PATH
        self._folder = folder
        self._files: tuple[bytes, ...] = ()
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes) -> wire.Answer:
        """The collector's answer; raises `UnsentError`."""
        session = await self._connected()
        try:
            async with session.post(
                self._url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as response:
                said = bytearray()
                async for part in response.content.iter_any():
                    said += part
                    if len(said) > _MOST_ANSWER:
                        break
                return wire.Answer(response.status, response.headers, bytes(said))
        except (aiohttp.ClientError, OSError) as error:
            raise UnsentError(explain(error, self._url)) from error

    async def close(self) -> None:
        """Ends its connections."""
        if self._session:
            await self._session.close()
            self._session = None

    async def _connected(self) -> aiohttp.ClientSession:
        paths = [self._folder / name for name in (CERTIFICATE, KEY, CA)]
        try:
            files = tuple(path.read_bytes() for path in paths)
            if self._session and files == self._files:
                return self._session
            tls = ssl.create_default_context(cafile=str(self._folder / CA))
            # A password is given, or OpenSSL would ask the terminal for one where the key is encrypted.
            tls.load_cert_chain(self._folder / CERTIFICATE, self._folder / KEY, password="")
        except ssl.SSLError as error:
            reason = (error.reason or "not PEM").replace("_", " ").lower()
            raise UnsentError(
                f"{self._folder}: the certificate, its key or the CA cannot be used ({reason})"
            ) from error
        except OSError as error:
            raise UnsentError(f"{error.filename}: {error.strerror}; {_WHENCE}") from error
        await self.close()
        self._files = files
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=1),
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session


def explain(error: Exception, url: str) -> str:
    """Why no answer came, in one sentence with the next step."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"{url}: the name {error.host} does not resolve; check logs.otlp.endpoint"
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{url}: the collector's certificate is not trusted ({cause.verify_message}); is its CA in {CA}?"
    if isinstance(error, TimeoutError):
        return f"{url} did not answer within {SECONDS} s; check the route to it, and network policies"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"{url} cannot be reached ({error.strerror}); is the collector running?"
    # What a server does with a certificate that it does not accept: in TLS 1.3 after the client's handshake.
    reason = getattr(error, "strerror", None) or type(error).__name__
    return f"{url}: the collector ends the connection ({reason}); does it trust the CA of {CERTIFICATE}?"
