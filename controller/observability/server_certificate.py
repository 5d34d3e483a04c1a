"""Read the certificate of the port of metrics from a mounted Secret, which is renewed at run time."""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

CERTIFICATE, KEY = "tls.crt", "tls.key"
# Seconds between two checks for a renewed certificate.
CHECK_SECONDS = 10.0
log = logging.getLogger(__name__)


class ServerCertificate:
    """The certificate of a server, from `tls.crt` and `tls.key` in a folder. Raise `OSError` if they are invalid."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._version = self._read_version()
        self._context = self._load_certificate()
        self._checked = clock()

    def tls_context(self) -> ssl.SSLContext:
        """Return a TLS context with the newest valid certificate."""
        if self._clock() - self._checked >= CHECK_SECONDS:
            self._checked = self._clock()
            try:
                if (version := self._read_version()) != self._version:
                    self._context = self._load_certificate()
                    self._version = version  # only now, so that a failure is followed by another attempt
                    log.info("the certificate of the metrics was renewed")
            except OSError as error:  # this includes ssl.SSLError
                log.warning(
                    "the renewed certificate of the metrics cannot be used (%s), and the previous one is used; check"
                    " the Secret that the chart's values name",
                    type(error).__name__,
                )
        return self._context

    def _read_version(self) -> tuple[int, ...]:
        return tuple((self._folder / name).stat().st_mtime_ns for name in (CERTIFICATE, KEY))

    def _load_certificate(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._folder / CERTIFICATE, self._folder / KEY)
        except ssl.SSLError as error:
            raise OSError(f"{self._folder}: {CERTIFICATE} and {KEY} are not a certificate with its key") from error
        return context
