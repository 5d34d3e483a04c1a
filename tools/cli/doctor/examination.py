"""Collect the facts that `tools.cli.doctor.checks` judges.

It calls the API server with the caller's rights, and Entra and the vault as the ServiceAccount, all from this machine.
It sends each request only once.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from controller import errors
from controller.api.meta import ObjectMeta, Secret, ServiceAccount
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync
from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS, Cloud
from controller.domain.decode_values import decode_values, flatten_expanded
from controller.domain.provider_class import ProviderConfig, read_class
from controller.domain.values import Unchanged, VaultValue
from controller.keyvault.credentials import Identity, read_claims
from controller.keyvault.pool import VaultPool
from controller.keyvault.transport import proxy_for
from controller.kube import permissions
from controller.kube.resources import ResourceClient
from controller.polling.group_polls import Records, recorded_polls
from controller.polling.poll_group import PollGroup
from controller.runtime.backoff import refresh_interval
from controller.secretsync import pkcs12_sandbox
from tools.cli.common.kube_client import OperatorKubeClient, first_line
from tools.cli.doctor import checks, class_checks, trusted_hosts
from tools.cli.doctor.checks import CheckResult, SecretData, fail, failed, ok, warn
from tools.cli.doctor.class_checks import ParsedSync
from tools.cli.doctor.endpoints import EndpointProber
from tools.cli.doctor.installation import ReleaseFacts
from tools.cli.releases import ANY_RELEASE, ReleaseChoice

# A small read that every vault refuses without a token. The refusal names the vault's tenant.
_PROBE = "/secrets?api-version="
_AT_ONCE = 8
T = TypeVar("T")


class FactCollector:
    """Collect the facts of one examination. Call `cluster()` first, because the others use the release that it finds.

    Use it as a context manager, which closes the connections.
    """

    def __init__(
        self, caller: OperatorKubeClient, choice: ReleaseChoice = ANY_RELEASE, hosts: Collection[str] = ()
    ) -> None:
        self._caller = caller
        self._outside = EndpointProber()
        self._release = ReleaseFacts(caller, self._outside, choice)
        self._hosts = hosts
        self._asked: dict[object, asyncio.Task[Any]] = {}
        self._vaults: VaultPool | None = None
        self._connecting: dict[str, Cloud] = {}
        self._clock: CheckResult | None = None
        self._groups: dict[str, PollGroup] = {}

    async def __aenter__(self) -> "FactCollector":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._vaults:
            await self._vaults.close()
        await self._outside.close()

    async def cluster(self) -> list[CheckResult]:
        """Check the release, its policies, and the cluster as an issuer of tokens."""
        return await self._release.examine()

    async def everything(self, syncs: list[SecretSync]) -> list[CheckResult]:
        """Check each of these SecretSyncs, their shared identities, and the clock."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def examine_one(sync: SecretSync) -> list[CheckResult]:
            async with slots:
                return await self._examine_sync(sync)

        async with asyncio.TaskGroup() as tasks:
            each = [tasks.create_task(examine_one(sync)) for sync in syncs]
        found = [check for task in each for check in task.result()]
        return ([self._clock] if self._clock else []) + await self._check_credentials() + found

    async def _check_credentials(self) -> list[CheckResult]:
        """Check the identities of all SecretSyncs of the cluster, if the caller may list them."""
        used = set()
        with contextlib.suppress(errors.KubeError):
            classes = await self._caller.list_kind(SecretProviderClass)
            known = {(each.metadata.namespace, each.metadata.name): each for each in classes}
            for sync in await self._caller.list_kind(SecretSync):
                source = known.get((sync.metadata.namespace, sync.spec.secret_provider_class_name))
                with contextlib.suppress(errors.ClassError):
                    used |= {_identity_of(sync, read_class(source))} if source else set()
        return checks.credentials(used)

    async def _examine_sync(self, sync: SecretSync) -> list[CheckResult]:
        """Check one SecretSync, from its class to its status. Leave out checks that depend on a failed one."""
        subject = f"{sync.metadata.namespace}/{sync.metadata.name}"
        found = [each async for each in self._examine_chain(subject, sync)]
        # Report a restored Secret even if other checks fail: its report matters most if the vault is unreachable.
        if not any(check.name == "secret" for check in found) and (orphaned := await self._check_orphan(subject, sync)):
            found.append(orphaned)
        found.append(
            checks.status(subject, sync, self._release.settings, datetime.now(UTC), await self._polled(subject))
        )
        return found

    async def _polled(self, subject: str) -> datetime | None:
        """Return when the SecretSync's group was last polled, as far as the caller may read it."""
        group = self._groups.get(subject)
        if group is None:
            return None
        usual = self._release.settings.rotation_poll_interval
        return (await self._ask_once("polls", self._polls)).get((group.namespace, group.fingerprint(usual)))

    async def _polls(self) -> Records:
        with contextlib.suppress(errors.KubeError):
            return recorded_polls(await self._caller.list_kind(SecretSync), datetime.now(UTC))
        return {}

    async def _examine_chain(self, subject: str, sync: SecretSync) -> AsyncIterator[CheckResult]:
        if aside := checks.served(subject, sync, self._release.settings):
            yield aside
        try:
            understood = await self._resolve_class(sync)
        except errors.KubeError as error:
            yield warn(subject, "class", first_line(error), "ask for the right to read it; nothing else was checked")
            return
        except errors.ControllerError as error:
            yield class_checks.refused(subject, error)
            return
        for check in class_checks.checks_of(subject, understood):
            yield check
        source, wanted = understood.source, understood.wanted
        identity = _identity_of(sync, source)
        usual, shortest = (
            self._release.settings.rotation_poll_interval,
            self._release.settings.shortest_refresh_interval,
        )
        interval = refresh_interval(sync.metadata.annotations.get(REFRESH_INTERVAL), usual, shortest)
        self._groups[subject] = PollGroup(identity, source.cloud, source.vault, interval or usual)
        yield class_checks.roles(subject, identity, source)
        yield await self._check_account(subject, identity)
        if await self._ask_once(("right", identity.subject), lambda: self._lacks_right(identity)):
            yield checks.token_right(subject, identity)
        token = await self._ask_once(("token", identity), lambda: self._request_token(identity))
        if isinstance(token, errors.KubeError):
            yield _no_token(subject, token)
        else:
            yield checks.token(subject, identity, read_claims(token), self._release.issuer)
        cloud = self._release.clouds[source.cloud]
        if unnamed := trusted_hosts.unnamed(cloud, source.vault, self._hosts):
            yield checks.hosts(subject, source.cloud, unnamed)
            return
        cloud = trusted_hosts.connecting(cloud, source.vault, self._hosts)
        signed_in = False
        async for check in self._check_entra(subject, identity, cloud, token):
            signed_in = check.name == "entra" and check.level is checks.CheckLevel.OK
            yield check
        async for check in self._check_vault(subject, source, cloud):
            signed_in = signed_in and check.level is not checks.CheckLevel.FAIL
            yield check
        if not signed_in:
            return
        reader = self._vault_reader(identity, source, cloud)
        wholes = {version.whole for version in wanted.values()}
        read = await reader.read(wholes, since=time.monotonic(), first=True)
        named = {str(version): read[version] for version in sorted(read, key=str)}
        for check in checks.objects(subject, identity, source.vault, named):
            yield check
        arguments = (source.vault, wanted, read, datetime.now(UTC), pkcs12_sandbox.pfx_to_pem)
        made = await asyncio.to_thread(decode_values, *arguments)
        yield await self._check_secret(subject, sync, flatten_expanded(wanted, made))

    async def _resolve_class(self, sync: SecretSync) -> ParsedSync:
        name = sync.spec.secret_provider_class_name
        found: SecretProviderClass | None
        try:
            found = await self._caller.get(SecretProviderClass, sync.metadata.namespace, name)
        except errors.NotFound:
            found = None
        release = self._release
        try:
            return class_checks.understand(sync, found, release.clouds, release.settings.default_cloud)
        except class_checks.UnknownCloudError as error:
            if not release.settings_seen:
                text = f"cloud {error.cloud[:60]!r} is in the release's settings, which could not be read"
                raise errors.Refused(text) from error
            raise

    async def _check_account(self, subject: str, identity: Identity) -> CheckResult:
        namespace, name = identity.namespace, identity.service_account
        try:
            await self._ask_once(
                ("account", namespace, name), lambda: self._caller.get(ServiceAccount, namespace, name)
            )
        except errors.NotFound:
            fix = f"kubectl create serviceaccount {name} --namespace {namespace}, or correct serviceAccountName"
            return fail(subject, "account", f"there is no ServiceAccount {name}", fix)
        except errors.KubeError as error:
            return warn(subject, "account", first_line(error), "the doctor could not check whether it exists")
        return ok(subject, "account", f"ServiceAccount {name} exists")

    async def _lacks_right(self, identity: Identity) -> bool:
        """Return whether the controller certainly has no right to this ServiceAccount's tokens."""
        user = self._release.account
        if not user:
            return False
        _, _, namespace, _ = user.split(":")
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
        wanted = {
            "namespace": identity.namespace,
            "verb": "create",
            "resource": "serviceaccounts",
            "subresource": "token",
            "name": identity.service_account,
        }
        try:
            return not await self._caller.is_allowed(user, groups, wanted)
        except errors.KubeError:
            return False  # the caller may not request it

    async def _request_token(self, identity: Identity) -> str | errors.KubeError:
        """Return a token like the controller's, or why the caller gets none."""
        try:
            answer = await permissions.TOKENS.request_token(
                self._caller.kube,
                identity.namespace,
                identity.service_account,
                audience=TOKEN_AUDIENCE,
                seconds=TOKEN_SECONDS,
            )
        except errors.KubeError as error:
            return error.bare()
        return answer.status.token

    async def _check_entra(
        self, subject: str, identity: Identity, cloud: Cloud, token: str | errors.KubeError
    ) -> AsyncIterator[CheckResult]:
        url = f"{cloud.authority}/{identity.tenant_id}/v2.0/.well-known/openid-configuration"
        headers = await self._ask_once(url, lambda: self._outside.reach(url, cloud, "Microsoft Entra"))
        if isinstance(headers, errors.ProviderError):
            yield failed(subject, "entra", headers, _explain_route(headers, url, cloud))
            return
        if isinstance(token, errors.KubeError):
            return
        if (date := headers.get("Date")) and (issued := read_claims(token).get("iat")):
            with contextlib.suppress(ValueError):  # a proxy can write an invalid date
                self._clock = checks.clock(float(issued), parsedate_to_datetime(date).timestamp())

        refused = await self._ask_once(
            ("entra", identity, cloud), lambda: self._outside.sign_in(identity, cloud, token)
        )
        if refused:
            issuer = self._release.issuer or str(read_claims(token).get("iss"))
            needed = "give it a federated credential" in refused.message
            yield failed(subject, "entra", refused, checks.federated_credential(identity, issuer) if needed else "")
        else:
            yield ok(subject, "entra", f"it accepts the token for identity {identity.client_id}")

    async def _check_vault(self, subject: str, source: ProviderConfig, cloud: Cloud) -> AsyncIterator[CheckResult]:
        """Check the network path to the vault, and its answer without a token."""
        url = trusted_hosts.vault_url(cloud, source.vault)
        where = urlsplit(url)
        host, port = where.hostname or "", where.port or 443
        if proxy := proxy_for(where.scheme, where.netloc):
            yield ok(subject, "dns", f"{host} is resolved by the proxy {urlsplit(proxy).hostname}")
        else:
            with contextlib.suppress(OSError):
                loop = asyncio.get_running_loop()
                yield checks.addresses(subject, host, [str(each[4][0]) for each in await loop.getaddrinfo(host, port)])
        headers = await self._ask_once(
            url, lambda: self._outside.reach(f"{url}{_PROBE}{cloud.api_version}", cloud, f"Key Vault {source.vault}")
        )
        if isinstance(headers, errors.ProviderError):
            yield failed(subject, "vault", headers, _explain_route(headers, url, cloud))
            return
        wrong = checks.tenant(subject, source.vault, headers.get("WWW-Authenticate", ""), source.tenant_id)
        yield wrong or ok(subject, "vault", f"{where.netloc} answers, and its certificate is trusted")

    async def _check_secret(
        self, subject: str, sync: SecretSync, fetched: Mapping[str, VaultValue | Unchanged | errors.ControllerError]
    ) -> CheckResult:
        path = ResourceClient(Secret, "").url_path(sync.metadata.namespace, sync.metadata.name)
        try:
            found = await self._caller.get_as(path, SecretData)
        except errors.NotFound:
            found = None
        except errors.KubeError as error:
            return warn(subject, "secret", first_line(error), "the doctor could not check whether it is equal")
        return checks.secret(subject, sync, found, fetched)

    async def _check_orphan(self, subject: str, sync: SecretSync) -> CheckResult | None:
        path = ResourceClient(Secret, "").url_path(sync.metadata.namespace, sync.metadata.name)
        try:
            held = msgspec.convert(await self._caller.get_metadata(path), ObjectMeta)
        except (errors.KubeError, msgspec.ValidationError):
            return None  # it is missing, or the caller may not read it
        return checks.orphan(subject, sync, held)

    def _vault_reader(self, identity: Identity, source: ProviderConfig, cloud: Cloud) -> Any:
        if not self._vaults:
            # The exchanged token is the one that was checked above.
            async def assertion(who: Identity) -> str:
                token = await self._ask_once(("token", who), lambda: self._request_token(who))
                if isinstance(token, errors.KubeError):
                    raise token
                return token

            self._vaults = VaultPool(self._connecting, assertion, lambda *_: None)
        # Whether the release's certificates count also depends on the vault. A reader keeps its cloud.
        self._connecting[source.cloud] = cloud
        return self._vaults.reader(identity, source.cloud, source.vault)

    async def _ask_once(self, what: object, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a request that several SecretSyncs share, sent for the first of them."""
        if what not in self._asked:
            self._asked[what] = asyncio.ensure_future(ask())
        answer: T = await self._asked[what]
        return answer


def _identity_of(sync: SecretSync, source: ProviderConfig) -> Identity:
    return Identity(sync.metadata.namespace, sync.spec.service_account_name, source.client_id, source.tenant_id)


def _no_token(subject: str, error: errors.KubeError) -> CheckResult:
    if isinstance(error, errors.NotFound):
        return fail(subject, "token", "there is no ServiceAccount to sign one for", "see the line above")
    text = f"there is none, so neither Entra nor the vault was contacted: {first_line(error)}"
    return warn(subject, "token", text, "ask for the right to create serviceaccounts/token here")


def _explain_route(error: errors.ProviderError, url: str, cloud: Cloud) -> str:
    """Return the next step if the controller's would be to wait, or does not apply to this machine."""
    host = urlsplit(url).netloc
    if "tries again by itself" in error.message:
        return f"check route, firewall and proxy to {host}"
    if "certificate is not trusted" in error.message and not cloud.ca:
        return (
            "if a proxy inspects TLS, add its CA to this machine's certificates and to the chart's `caBundle`; to use"
            " the release's certificates here, name the cloud's hosts with --allow-host"
        )
    return ""
