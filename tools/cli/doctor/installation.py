"""Examine the release: its settings and policies, and the cluster as an issuer of tokens."""

import asyncio
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec

from controller import errors
from controller.api.lease import Lease
from controller.config.settings import BUILT_IN_CLOUDS, Cloud, Settings, SettingsError
from tools.cli import releases
from tools.cli.common import command
from tools.cli.common.kube_client import Object, OperatorKubeClient, first_line
from tools.cli.doctor import checks, trusted_hosts
from tools.cli.doctor.checks import CLUSTER, CheckResult, ok, warn
from tools.cli.doctor.endpoints import EndpointProber
from tools.cli.releases import ANY_RELEASE, LABELS, ControllerRelease, NotSeen, ReleaseChoice
from tools.codegen import policies

# A pod takes the Lease seconds after it became ready.
LEADER_WAIT_SECONDS = 10.0
_RETRY_SECONDS = 0.5


class ReleaseFacts:
    """The settings and clouds in force, and the issuer, as `examine` finds them. Before that, they are the defaults.

    `settings_seen` means that the settings were read, so missing ones do not exist.
    """

    def __init__(
        self, caller: OperatorKubeClient, outside: EndpointProber, choice: ReleaseChoice = ANY_RELEASE
    ) -> None:
        self._caller = caller
        self._outside = outside
        self._choice = choice
        self.settings = Settings()
        self.clouds = self.settings.clouds()
        self.settings_seen = False
        self.issuer = ""
        self.account = ""
        """The release's own user, if the release was found."""

    async def examine(self) -> list[CheckResult]:
        """Check the release, its policies, and the cluster as an issuer of tokens."""
        found: list[CheckResult] = []
        release: ControllerRelease | None = None
        try:
            release = releases.choose_release(await releases.find_releases(self._caller, self._choice))
            found.append(checks.controller(release))
        except NotSeen as error:
            text = f"it could not be found: {str(error)[:200]}; the doctor assumes the chart's default values"
            found.append(warn(CLUSTER, "controller", text, "name it: --release-namespace NAMESPACE"))
        except errors.Refused as error:
            found.append(_unseen_check("controller", error, "the doctor assumes the chart's default values"))
        if release:
            self.account = f"system:serviceaccount:{release.namespace}:{releases.runs_as(release.deployment)}"
            found += await self._read_settings(release)
            found += await self._check_leader(release)
            found += await self._overlaps(release)
            found.append(await self._check_policies(release))
        found.append(await self._read_issuer())
        return found

    async def _read_settings(self, release: ControllerRelease) -> list[CheckResult]:
        """Read the Deployment's environment, and the ConfigMap of files that it mounts."""
        try:
            spec = release.deployment["spec"]["template"]["spec"]
            environment = _environment(release)
            paths = {field: environment.pop(field.upper(), "") for field in ("clouds_file", "ca_file")}
            files = {field: path.rpartition("/")[2] for field, path in paths.items() if path}
            self.settings = Settings.from_environment(environment)
            self.settings_seen = not files
            if not files:
                self.clouds = self.settings.clouds()
                return []
            names = [each["configMap"]["name"] for each in spec.get("volumes", []) if "configMap" in each]
            held = await self._caller.get_object(f"/api/v1/namespaces/{release.namespace}/configmaps/{names[0]}")
            self.clouds = _parse_clouds(self.settings, {field: held["data"][name] for field, name in files.items()})
            self.settings_seen = True
        except (SettingsError, errors.KubeError, LookupError, TypeError, ValueError, RecursionError) as error:
            return [warn(CLUSTER, "settings", f"the release's settings cannot be read ({error})", "run helm upgrade")]
        return [ok(CLUSTER, "settings", f"clouds {', '.join(self._describe_clouds(sorted(self.clouds)))}")]

    async def _check_leader(self, release: ControllerRelease) -> list[CheckResult]:
        """Return which replica leads, unless the release has no election."""
        if not (name := self.settings.lease_name):
            return []
        path = f"/apis/coordination.k8s.io/v1/namespaces/{release.namespace}/leases/{name}"
        try:
            lease = await self._wait_for_leader(path, checks.is_available(release))
        except (errors.KubeError, msgspec.ValidationError) as error:
            why = first_line(error) if isinstance(error, errors.KubeError) else str(error)
            return [warn(CLUSTER, "leader", f"the Lease {name} cannot be read ({why})", "ask an administrator")]
        return [checks.leader(lease, datetime.now(UTC))]

    async def _wait_for_leader(self, path: str, has_ready_pod: bool) -> Lease | None:
        """Return the Lease, or None if it is missing. A ready pod gets `LEADER_WAIT_SECONDS` to take it."""
        deadline = time.monotonic() + LEADER_WAIT_SECONDS if has_ready_pod else 0
        lease = await self._read_lease(path)
        if deadline and not _has_holder(lease):
            command.print_problem(
                "tools/doctor", f"no replica leads yet; waiting up to {LEADER_WAIT_SECONDS:.0f} s for one"
            )
        while not _has_holder(lease) and time.monotonic() < deadline:
            await asyncio.sleep(_RETRY_SECONDS)
            lease = await self._read_lease(path)
        return lease

    async def _read_lease(self, path: str) -> Lease | None:
        try:
            return msgspec.convert(await self._caller.get_object(path), Lease)
        except errors.NotFound:
            return None

    async def _overlaps(self, release: ControllerRelease) -> list[CheckResult]:
        """Return a check for each other release in the same namespaces, if the caller can read releases."""
        try:
            found = await releases.find_releases(self._caller, ReleaseChoice())
        except (NotSeen, errors.KubeError):
            return []
        checked = []
        for other in found:
            if (other.namespace, other.name) == (release.namespace, release.name):
                continue
            try:
                theirs = Settings.from_environment(_environment(other)).watch_namespaces
            except (SettingsError, LookupError, TypeError):
                continue  # its settings cannot be read; its own examination reports that
            checked += checks.overlap(other, self.settings.watch_namespaces, theirs)
        return checked

    def _describe_clouds(self, names: Iterable[str]) -> Iterable[str]:
        """Return the clouds with their hosts, except for Azure's own."""
        for name in names:
            hosts, own = trusted_hosts.hosts(self.clouds[name]), BUILT_IN_CLOUDS.get(name)
            yield name if own and hosts == trusted_hosts.hosts(own) else f"{name} ({', '.join(hosts)})"

    async def _check_policies(self, release: ControllerRelease) -> CheckResult:
        brought = [policy for policy in policies.POLICIES if policy.is_installed(self.settings)]
        wanted = [f"{policy.name}.{release.name}.{release.namespace}" for policy in brought]
        path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
        try:
            there = await self._caller.list_objects(f"{path}ies", LABELS)
            bindings = await self._caller.list_objects(f"{path}ybindings", LABELS)
        except errors.NotFound:
            text = f"this version of Kubernetes has no admission policies (they exist since {policies.SINCE})"
            return warn(CLUSTER, "policies", text, "upgrade it, or confine the controller with watchNamespaces")
        except errors.Refused as error:
            return _unseen_check("policies", error, "ask an administrator to check")
        return checks.policies(wanted, [each["metadata"]["name"] for each in there], bindings)

    async def _read_issuer(self) -> CheckResult:
        """Check the issuer that the API server names, and the documents that it publishes."""
        try:
            document = await self._caller.get_object("/.well-known/openid-configuration")
            held = await self._caller.get_object("/openid/v1/jwks")
        except errors.KubeError as error:
            return _unseen_check(
                "issuer", error, "bind yourself to the ClusterRole system:service-account-issuer-discovery"
            )
        self.issuer = str(document["issuer"])
        try:
            published = await self._outside.document(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            public = _key_ids(await self._outside.document(str(published["jwks_uri"])))
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
            text = f"{self.issuer} {_explain_unread_documents(error)}"
            return warn(CLUSTER, "issuer", text, "Entra must reach it: publish the discovery document there")
        return checks.issuer(self.issuer, _key_ids(held), published, public)


def _has_holder(lease: Lease | None) -> bool:
    return bool(lease and lease.spec.holder_identity)


def _environment(release: ControllerRelease) -> dict[str, str]:
    """Return the environment variables of the controller's container. Raise `LookupError` or `TypeError`."""
    container = release.deployment["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value", "") for each in container.get("env", [])}


def _parse_clouds(settings: Settings, files: Mapping[str, str]) -> dict[str, Cloud]:
    """Read the clouds from the ConfigMap's texts, by the setting that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        # The ConfigMap does not contain the names of the files.
        for field, text in files.items():
            Path(folder, field).write_text(text)
        return msgspec.structs.replace(settings, **{field: f"{folder}/{field}" for field in files}).clouds()


def _explain_unread_documents(error: Exception) -> str:
    """Return why the documents of an issuer could not be read, as the rest of a sentence."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "has a TLS certificate that cannot be verified from here"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"answers HTTP {error.status} instead of the discovery document and its keys"
    if isinstance(error, aiohttp.ClientError | TimeoutError):
        return f"cannot be reached from here ({type(error).__name__})"
    return "publishes no discovery document with keys"


def _key_ids(document: Object) -> list[str]:
    """Return the ids of the keys of a JSON Web Key Set. Raise `LookupError` or `TypeError` for another document."""
    return [str(key["kid"]) for key in document["keys"]]


def _unseen_check(name: str, error: errors.KubeError, fix: str) -> CheckResult:
    return warn(CLUSTER, name, f"it could not be read: {first_line(error)}", fix)
