"""Find the API server, the CA to trust, and the credentials.

In a pod these are two variables and two files. Elsewhere the official client reads a kubeconfig, because kubeconfigs
have many features, such as plugins. The image does not contain that client, which takes 14 MiB of memory.
"""

import asyncio
import contextlib
import logging
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from controller import errors

# The kubelet's folder for token and CA, unless SERVICE_ACCOUNT_FOLDER is set.
FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
# Seconds between two reads of the token and the CA. The kubelet replaces the token long before it expires, and the CA
# when the cluster's is renewed.
REREAD_SECONDS = 60.0
NO_CONFIG = "cannot find the Kubernetes API"
_URL = re.compile(r"https?://[^\s/?#]+[^\s?#]*")


class ApiServerConfig(NamedTuple):
    """The address of the API server.

    `tls` returns the context with the current CA, and `authorization` the current Authorization header, or an empty
    text. `proxy` is the address of an HTTP proxy. `server_name` is the name in the certificate, if it differs from the
    host.
    """

    server: str
    tls: Callable[[], ssl.SSLContext]
    authorization: Callable[[], Awaitable[str]]
    proxy: str | None = None
    server_name: str | None = None


async def find_config(environment: Mapping[str, str]) -> ApiServerConfig:
    """Read the kubeconfig that KUBECONFIG names, or else use the pod's own ServiceAccount.

    Raise `errors.Refused` with the part that is missing.
    """
    if kubeconfig := environment.get("KUBECONFIG"):
        files = await asyncio.to_thread(list_kubeconfigs, kubeconfig)
        if not files:
            raise errors.Refused(f"KUBECONFIG names {kubeconfig}, which is not a file")
        return await _read_kubeconfig(files)
    return read_pod_config(environment)


def list_kubeconfigs(variable: str) -> list[str]:
    """Return the files that the variable KUBECONFIG names, separated by colons, as kubectl.

    Missing files are left out, and empty ones unless all are empty.
    """
    files = [path for path in variable.split(os.pathsep) if path and Path(path).is_file()]
    return [path for path in files if Path(path).stat().st_size] or files


class _MountedFiles:
    """A ServiceAccount's token and the cluster's CA, read again because they are replaced.

    The first read raises `OSError` or `ValueError` if one is missing or invalid.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._token = self._read_text("token")
        self._ca = self._read_text("ca.crt")
        self._tls = self._load_ca()
        self._reread_at = clock() + REREAD_SECONDS

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts the current CA. New connections use it."""
        self._reread_if_due()
        return self._tls

    async def authorization(self) -> str:
        """Return the value of the Authorization header."""
        self._reread_if_due()
        return f"Bearer {self._token}"

    def _reread_if_due(self) -> None:
        if self._clock() < self._reread_at:
            return
        self._reread_at = self._clock() + REREAD_SECONDS
        with contextlib.suppress(OSError):  # the current token remains valid for a while
            self._token = self._read_text("token") or self._token
        with contextlib.suppress(OSError, ValueError):  # a file that cannot be used changes nothing
            if (ca := self._read_text("ca.crt")) != self._ca:
                self._tls, self._ca = self._load_ca(), ca

    def _load_ca(self) -> ssl.SSLContext:
        # Not `cadata`: with an empty text, the context would trust every CA of the system.
        return ssl.create_default_context(cafile=self._folder / "ca.crt")

    def _read_text(self, name: str) -> str:
        return (self._folder / name).read_text().strip()


def read_pod_config(environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> ApiServerConfig:
    """Read a pod's environment and its ServiceAccount's token. Raise `Refused` if one is missing."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise errors.Refused(
            f"{NO_CONFIG}: KUBERNETES_SERVICE_HOST or _PORT is not set; run in a pod or set KUBECONFIG"
        )
    folder = Path(environment.get("SERVICE_ACCOUNT_FOLDER") or FOLDER)
    try:
        files = _MountedFiles(folder, clock)
    except (OSError, ValueError) as error:  # a TLS error is an OSError
        raise errors.Refused(
            f"{NO_CONFIG}: {folder} has no usable token and ca.crt ({type(error).__name__}); have the ServiceAccount's"
            " token mounted (automountServiceAccountToken) or set KUBECONFIG"
        ) from error
    return ApiServerConfig(f"https://{f'[{host}]' if ':' in host else host}:{port}", files.tls, files.authorization)


async def _read_kubeconfig(files: Sequence[str]) -> ApiServerConfig:
    try:
        from kubernetes.aio import config
        from kubernetes.aio.client.configuration import Configuration
        from kubernetes.aio.config.config_exception import ConfigException
    except ModuleNotFoundError as error:
        raise errors.Refused(
            f"{NO_CONFIG}: KUBECONFIG is set, and the package that reads kubeconfigs is not installed; unset it in a"
            " pod, elsewhere install `kubernetes` (requirements/dev.txt has it)"
        ) from error
    import yaml

    kubeconfig = os.pathsep.join(files)
    read = Configuration()
    try:
        context = await asyncio.to_thread(_current_context, files)
        with _collect_log("kubernetes.aio") as problems:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, context=context, client_configuration=read
            )
        tls = ssl.create_default_context(cafile=read.ssl_ca_cert)
        if not read.verify_ssl:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        if read.cert_file:
            tls.load_cert_chain(read.cert_file, keyfile=read.key_file)
        if not _URL.fullmatch(read.host):
            raise ValueError(f"server {read.host!r} is not an address such as https://host:6443")
        if read.proxy and not _URL.fullmatch(read.proxy):
            raise ValueError(f"proxy-url {read.proxy!r} is not the address of an HTTP proxy such as http://host:3128")
    except (ConfigException, yaml.YAMLError, ValueError, OSError, LookupError, TypeError, AttributeError) as error:
        text = str(error).rstrip(".")
        if isinstance(error, LookupError | TypeError | AttributeError):
            text = "the cluster or the user of its current context is missing or has another form"
        raise errors.Refused(
            f"{NO_CONFIG} in {kubeconfig}: {text}; correct it, or set KUBECONFIG to another"
        ) from error
    if problems and not read.api_key and not read.cert_file:
        raise errors.Refused(
            f"the program (exec) that {kubeconfig} names for credentials gave none: {problems[0]}; install it or sign"
            " in, until `kubectl version` works"
        )

    async def authorization() -> str:
        try:
            # The client runs the program in the kubeconfig that renews the token.
            found: Any = await read.get_api_key_with_prefix("BearerToken", alias="authorization")
        except ConfigException as error:
            raise errors.Unreachable(f"the kubeconfig gives no token ({error}); it is tried again") from error
        return found or ""

    return ApiServerConfig(read.host, lambda: tls, authorization, read.proxy or None, read.tls_server_name or None)


def _current_context(files: Sequence[str]) -> str | None:
    """Return the context that the first of the files names that names one, as kubectl. Their reader uses the last."""
    from controller.runtime import bounded_yaml

    for path in files:
        for document in bounded_yaml.load_all(bounded_yaml.read_text(Path(path)))[:1]:
            if isinstance(document, dict) and (name := document.get("current-context")):
                return str(name)
    return None


@contextlib.contextmanager
def _collect_log(name: str) -> Iterator[list[str]]:
    """Yield a list that gets the errors of this logger instead of stderr."""
    lines: list[str] = []
    logger, handler = logging.getLogger(name), logging.Handler(logging.ERROR)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
