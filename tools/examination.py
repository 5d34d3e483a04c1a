"""Gathers what `tools.checks` judges: from the API server with the caller's rights, from Entra and the vault as the
ServiceAccount, all from where it runs. What was asked once is not asked again.
"""

import asyncio
import contextlib
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from controller import confined, errors, permissions
from controller.api.meta import Secret, ServiceAccount
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.clouds import find_cloud
from controller.contents import contents
from controller.fetched import Fetched
from controller.identity import Identity, claims
from controller.kube import Handle
from controller.objects import VaultClass, read_class
from controller.plan import mistake
from controller.settings import TOKEN_AUDIENCE, TOKEN_SECONDS, Cloud
from controller.vaults import Vaults
from tools import checks, trusted_hosts
from tools.caller import Caller, short
from tools.checks import Check, SecretData, fail, failed, ok, warn
from tools.installation import Installation
from tools.outside import Outside
from tools.releases import Choice

# A small read that every vault refuses without a token: its refusal tells the vault's tenant.
_PROBE = "/secrets?api-version="
_AT_ONCE = 8
T = TypeVar("T")


class Examination:
    """One round of questions. `cluster()` comes first: the release that it finds is what the others are held against.

    Use as a context manager, which closes the connections.
    """

    def __init__(self, caller: Caller, choice: Choice = Choice(), hosts: Collection[str] = ()) -> None:  # noqa: B008
        self._caller = caller
        self._outside = Outside()
        self._release = Installation(caller, self._outside, choice)
        self._hosts = hosts
        self._asked: dict[object, asyncio.Task[Any]] = {}
        self._vaults: Vaults | None = None
        self._connecting: dict[str, Cloud] = {}
        self._clock: Check | None = None

    async def __aenter__(self) -> "Examination":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._vaults:
            await self._vaults.close()
        await self._outside.close()

    async def cluster(self) -> list[Check]:
        """The release, its policies, and the cluster as an issuer of tokens."""
        return await self._release.examine()

    async def everything(self, syncs: list[SecretSync]) -> list[Check]:
        """Each of these SecretSyncs, what they share in identities, and the clock."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(sync: SecretSync) -> list[Check]:
            async with slots:
                return await self._sync(sync)

        async with asyncio.TaskGroup() as tasks:
            each = [tasks.create_task(one(sync)) for sync in syncs]
        found = [check for task in each for check in task.result()]
        return ([self._clock] if self._clock else []) + await self._credentials() + found

    async def _credentials(self) -> list[Check]:
        """All identities that the cluster's SecretSyncs use, where the caller may list them."""
        used = set()
        with contextlib.suppress(errors.KubeError):
            classes = await self._caller.every(SecretProviderClass)
            known = {(each.metadata.namespace, each.metadata.name): each for each in classes}
            for sync in await self._caller.every(SecretSync):
                source = known.get((sync.metadata.namespace, sync.spec.secret_provider_class_name))
                with contextlib.suppress(errors.ClassError):
                    used |= {_identity(sync, read_class(source))} if source else set()
        return checks.credentials(used)

    async def _sync(self, sync: SecretSync) -> list[Check]:
        """One SecretSync, from its class to its status. What can no longer be asked is left out."""
        subject = f"{sync.metadata.namespace}/{sync.metadata.name}"
        found = [each async for each in self._chain(subject, sync)]
        found.append(checks.status(subject, sync, self._release.settings, datetime.now(UTC)))
        return found

    async def _chain(self, subject: str, sync: SecretSync) -> AsyncIterator[Check]:
        if aside := checks.served(subject, sync, self._release.settings):
            yield aside
        try:
            source = await self._class(sync)
            if wrong := mistake(sync):
                raise wrong
            wanted = source.wanted(sync.spec.secret_object)
        except errors.KubeError as error:
            yield warn(subject, "class", short(error), "ask for the right to read it; no more was looked at")
            return
        except errors.ControllerError as error:
            yield failed(subject, "class" if isinstance(error, errors.ClassError) else "mapping", error)
            return
        yield ok(subject, "class", f"Key Vault {source.vault}, {len(source.objects)} objects, cloud {source.cloud}")
        for problem in source.problems:
            yield warn(subject, "class", problem, "correct it; other objects of the class are synced all the same")
        identity = _identity(sync, source)
        yield await self._account(subject, identity)
        token = await self._once(("token", identity), lambda: self._token(identity))
        if isinstance(token, errors.KubeError):
            yield _no_token(subject, token)
        else:
            yield checks.token(subject, identity, claims(token), self._release.issuer)
        cloud = self._release.clouds[source.cloud]
        if unnamed := trusted_hosts.unnamed(cloud, source.vault, self._hosts):
            yield checks.hosts(subject, source.cloud, unnamed)
            return
        cloud = trusted_hosts.connecting(cloud, source.vault, self._hosts)
        signed_in = False
        async for check in self._entra(subject, identity, cloud, token):
            signed_in = check.name == "entra" and check.level is checks.Level.OK
            yield check
        async for check in self._vault(subject, source, cloud):
            signed_in = signed_in and check.level is not checks.Level.FAIL
            yield check
        if not signed_in:
            return
        reader = self._reader(identity, source, cloud)
        wholes = {version.whole for version in wanted.values()}
        read = await reader.read(wholes, since=time.monotonic(), first=True)
        named = {str(version): read[version] for version in sorted(read, key=str)}
        for check in checks.objects(subject, identity, source.vault, named):
            yield check
        arguments = (source.vault, wanted, read, datetime.now(UTC), confined.pem_of_pfx)
        yield await self._secret(subject, sync, await asyncio.to_thread(contents, *arguments))

    async def _class(self, sync: SecretSync) -> VaultClass:
        name = sync.spec.secret_provider_class_name
        try:
            source = read_class(await self._caller.get(SecretProviderClass, sync.metadata.namespace, name))
        except errors.NotFound as error:
            text = f"there is no SecretProviderClass {name}; create it or correct secretProviderClassName"
            raise errors.ClassError(text) from error
        asked = source.cloud or self._release.settings.default_cloud
        cloud = find_cloud(asked, self._release.clouds)
        if cloud is None and not self._release.settings_seen:
            raise errors.Refused(f"cloud {asked[:60]!r} is in the release's settings, which could not be read")
        if cloud is None:
            known = ", ".join(sorted(self._release.clouds))
            raise errors.ClassError(f"cloudName {asked[:60]!r} is not one of the administrator's; known are {known}")
        return msgspec.structs.replace(source, cloud=cloud)

    async def _account(self, subject: str, identity: Identity) -> Check:
        namespace, name = identity.namespace, identity.service_account
        try:
            await self._once(("account", namespace, name), lambda: self._caller.get(ServiceAccount, namespace, name))
        except errors.NotFound:
            fix = f"kubectl create serviceaccount {name} --namespace {namespace}, or correct serviceAccountName"
            return fail(subject, "account", f"there is no ServiceAccount {name}", fix)
        except errors.KubeError as error:
            return warn(subject, "account", short(error), "whether it exists could not be seen")
        return ok(subject, "account", f"ServiceAccount {name} is there")

    async def _token(self, identity: Identity) -> str | errors.KubeError:
        """A token such as the controller asks for, or why the caller gets none."""
        try:
            answer = await permissions.TOKENS.request(
                self._caller.kube,
                identity.namespace,
                identity.service_account,
                audience=TOKEN_AUDIENCE,
                seconds=TOKEN_SECONDS,
            )
        except errors.KubeError as error:
            return error.bare()
        return answer.status.token

    async def _entra(
        self, subject: str, identity: Identity, cloud: Cloud, token: str | errors.KubeError
    ) -> AsyncIterator[Check]:
        url = f"{cloud.authority}/{identity.tenant_id}/v2.0/.well-known/openid-configuration"
        headers = await self._once(url, lambda: self._outside.reach(url, cloud, "Microsoft Entra"))
        if isinstance(headers, errors.ProviderError):
            yield failed(subject, "entra", headers, _route(headers, url, cloud))
            return
        if isinstance(token, errors.KubeError):
            return
        if (date := headers.get("Date")) and (issued := claims(token).get("iat")):
            with contextlib.suppress(ValueError):  # a proxy's idea of a date
                self._clock = checks.clock(float(issued), parsedate_to_datetime(date).timestamp())

        refused = await self._once(("entra", identity, cloud), lambda: self._outside.sign_in(identity, cloud, token))
        if refused:
            issuer = self._release.issuer or str(claims(token).get("iss"))
            needed = "give it a federated credential" in refused.message
            yield failed(subject, "entra", refused, checks.federated_credential(identity, issuer) if needed else "")
        else:
            yield ok(subject, "entra", f"it takes the token for identity {identity.client_id}")

    async def _vault(self, subject: str, source: VaultClass, cloud: Cloud) -> AsyncIterator[Check]:
        """The way there, and what the vault says to a stranger."""
        url = trusted_hosts.vault_url(cloud, source.vault)
        where = urlsplit(url)
        host, port = where.hostname or "", where.port or 443
        proxy = urllib.request.getproxies().get("https")
        if proxy and not urllib.request.proxy_bypass(host):
            yield ok(subject, "dns", f"{host} is left to the proxy {urlsplit(proxy).hostname}")
        else:
            with contextlib.suppress(OSError):
                loop = asyncio.get_running_loop()
                yield checks.addresses(subject, host, [str(each[4][0]) for each in await loop.getaddrinfo(host, port)])
        headers = await self._once(
            url, lambda: self._outside.reach(f"{url}{_PROBE}{cloud.api_version}", cloud, f"Key Vault {source.vault}")
        )
        if isinstance(headers, errors.ProviderError):
            yield failed(subject, "vault", headers, _route(headers, url, cloud))
            return
        wrong = checks.tenant(subject, source.vault, headers.get("WWW-Authenticate", ""), source.tenant_id)
        yield wrong or ok(subject, "vault", f"{where.netloc} answers, and its certificate is trusted")

    async def _secret(
        self, subject: str, sync: SecretSync, fetched: Mapping[str, Fetched | errors.ControllerError]
    ) -> Check:
        path = Handle(Secret, "").path(sync.metadata.namespace, sync.metadata.name)
        try:
            found = await self._caller.read(path, SecretData)
        except errors.NotFound:
            found = None
        except errors.KubeError as error:
            return warn(subject, "secret", short(error), "whether it is equal could not be seen")
        return checks.secret(subject, sync, found, fetched)

    def _reader(self, identity: Identity, source: VaultClass, cloud: Cloud) -> Any:
        if not self._vaults:
            # The same token that was judged above is the one that is exchanged.
            async def assertion(who: Identity) -> str:
                token = await self._once(("token", who), lambda: self._token(who))
                if isinstance(token, errors.KubeError):
                    raise token
                return token

            self._vaults = Vaults(self._connecting, assertion, lambda *_: None)
        # Whether the release's certificates count depends on the vault, too. A reader keeps the cloud it is made with.
        self._connecting[source.cloud] = cloud
        return self._vaults.reader(identity, source.cloud, source.vault)

    async def _once(self, what: object, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question that several SecretSyncs have, asked for the first of them."""
        if what not in self._asked:
            self._asked[what] = asyncio.ensure_future(ask())
        answer: T = await self._asked[what]
        return answer


def _identity(sync: SecretSync, source: VaultClass) -> Identity:
    return Identity(sync.metadata.namespace, sync.spec.service_account_name, source.client_id, source.tenant_id)


def _no_token(subject: str, error: errors.KubeError) -> Check:
    if isinstance(error, errors.NotFound):
        return fail(subject, "token", "there is no ServiceAccount to sign one for", "see the line above")
    text = f"none could be had, so neither Entra nor the vault was asked: {short(error)}"
    return warn(subject, "token", text, "ask for the right to create serviceaccounts/token here")


def _route(error: errors.ProviderError, url: str, cloud: Cloud) -> str:
    """The next step where the controller's own would be to wait, or is not this machine's."""
    host = urlsplit(url).netloc
    if "tries again by itself" in error.message:
        return f"check route, firewall and proxy to {host}"
    if "certificate is not trusted" in error.message and not cloud.ca:
        return (
            "if a proxy inspects TLS, add its CA to this machine's certificates and to the chart's `caBundle`; to use"
            " the release's certificates here, name the cloud's hosts with --allow-host"
        )
    return ""
