"""The way to the API server: where it is, whom to trust, and who we are.

In a pod that is two variables and two files. A kubeconfig can ask for far more (plugins, say), so the official client
reads it; it costs 19 MiB and the image, which needs none, goes without.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from controller import errors

# Where the kubelet puts token and CA, unless SERVICE_ACCOUNT_FOLDER says otherwise.
FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
# The kubelet replaces a token long before it ends, so the file need not be read for each request.
READ_AGAIN = 60.0
NO_WAY = "no way to the Kubernetes API"


class Access(NamedTuple):
    """`authorization` answers with that header's text for a request of this moment; empty for none."""

    server: str
    tls: ssl.SSLContext
    authorization: Callable[[], Awaitable[str]]


async def find(environment: Mapping[str, str]) -> Access:
    """By a kubeconfig if KUBECONFIG names one, else as the pod's own ServiceAccount.

    Raises `errors.Refused` naming what is missing.
    """
    if kubeconfig := environment.get("KUBECONFIG"):
        if not await asyncio.to_thread(Path(kubeconfig).is_file):
            raise errors.Refused(f"KUBECONFIG names {kubeconfig}, which is not a file")
        return await _by_kubeconfig(kubeconfig)
    return _in_pod(environment)


class _TokenFile:
    """A ServiceAccount's token, read again as it is replaced. Raises `OSError` where there is none to begin with."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._token = path.read_text().strip()
        self._again = clock() + READ_AGAIN

    async def authorization(self) -> str:
        """The header of a request."""
        if self._clock() >= self._again:
            self._again = self._clock() + READ_AGAIN
            self._read()
        return f"Bearer {self._token}"

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the one that we have serves for a while yet
            self._token = self._path.read_text().strip() or self._token


def _in_pod(environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> Access:
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise errors.Refused(f"{NO_WAY}: KUBERNETES_SERVICE_HOST or _PORT is not set; run in a pod or set KUBECONFIG")
    folder = Path(environment.get("SERVICE_ACCOUNT_FOLDER") or FOLDER)
    try:
        token = _TokenFile(folder / "token", clock)
        tls = ssl.create_default_context(cafile=folder / "ca.crt")
    except (OSError, ValueError) as error:  # a TLS error is an OSError
        raise errors.Refused(
            f"{NO_WAY}: {folder} has no usable token and ca.crt ({type(error).__name__}); have the ServiceAccount's"
            " token mounted (automountServiceAccountToken) or set KUBECONFIG"
        ) from error
    return Access(f"https://{f'[{host}]' if ':' in host else host}:{port}", tls, token.authorization)


async def _by_kubeconfig(kubeconfig: str) -> Access:
    try:
        from kubernetes.aio import config
        from kubernetes.aio.client.configuration import Configuration
        from kubernetes.aio.config.config_exception import ConfigException
    except ModuleNotFoundError as error:
        raise errors.Refused(
            f"{NO_WAY}: KUBECONFIG is set, and the package that reads kubeconfigs is not installed; unset it in a pod,"
            " elsewhere install `kubernetes` (requirements/dev.txt has it)"
        ) from error
    import yaml

    read = Configuration()
    try:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=read)  # type: ignore[no-untyped-call]
        tls = ssl.create_default_context(cafile=read.ssl_ca_cert)
        if read.cert_file:
            tls.load_cert_chain(read.cert_file, keyfile=read.key_file)
    except (ConfigException, yaml.YAMLError, TypeError, KeyError, ValueError, OSError) as error:
        text = str(error).rstrip(".")
        raise errors.Refused(f"{NO_WAY} by {kubeconfig}: {text}; correct it, or set KUBECONFIG to another") from error

    async def authorization() -> str:
        try:
            # The client runs what the file names to renew it.
            found: Any = await read.get_api_key_with_prefix("BearerToken", alias="authorization")
        except ConfigException as error:
            raise errors.Unreachable(f"the kubeconfig gives no token ({error}); it is tried again") from error
        return found or ""

    return Access(read.host, tls, authorization)
