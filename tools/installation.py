"""The release that is examined: its settings and policies, and the cluster as an issuer of tokens."""

import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec

from controller import errors
from controller.api.lease import Lease
from controller.settings import BUILT_IN_CLOUDS, Cloud, Settings, SettingsError
from tools import checks, policies, releases, trusted_hosts
from tools.caller import Caller, Object, short
from tools.checks import CLUSTER, Check, ok, warn
from tools.outside import Outside
from tools.releases import LABELS, Choice, NotSeen, Release


class Installation:
    """What `examine` finds: the settings and clouds that are in force, and the issuer; the defaults until then.

    `settings_seen` says that they were read, so that what is not among them is not there.
    """

    def __init__(self, caller: Caller, outside: Outside, choice: Choice = Choice()) -> None:  # noqa: B008 -- frozen
        self._caller = caller
        self._outside = outside
        self._choice = choice
        self.settings = Settings()
        self.clouds = self.settings.clouds()
        self.settings_seen = False
        self.issuer = ""

    async def examine(self) -> list[Check]:
        """The release, its policies, and the cluster as an issuer of tokens."""
        found: list[Check] = []
        release: Release | None = None
        try:
            release = releases.only(await releases.search(self._caller, self._choice))
            found.append(checks.controller(release))
        except NotSeen as error:
            text = f"it could not be found: {str(error)[:200]}; the chart's default values are taken to be in force"
            found.append(warn(CLUSTER, "controller", text, "name it: --release-namespace NAMESPACE"))
        except errors.Refused as error:
            found.append(_unseen("controller", error, "the chart's default values are taken to be in force"))
        if release:
            found += await self._read_settings(release)
            found += await self._leader(release)
            found.append(await self._policies(release))
        found.append(await self._read_issuer())
        return found

    async def _read_settings(self, release: Release) -> list[Check]:
        """What the Deployment's environment says, and the ConfigMap of files that it mounts."""
        try:
            spec = release.deployment["spec"]["template"]["spec"]
            environment = {each["name"]: each.get("value", "") for each in spec["containers"][0].get("env", [])}
            paths = {field: environment.pop(field.upper(), "") for field in ("clouds_file", "ca_file")}
            files = {field: path.rpartition("/")[2] for field, path in paths.items() if path}
            self.settings = Settings.from_environment(environment)
            self.settings_seen = not files
            if not files:
                self.clouds = self.settings.clouds()
                return []
            names = [each["configMap"]["name"] for each in spec.get("volumes", []) if "configMap" in each]
            held = await self._caller.object(f"/api/v1/namespaces/{release.namespace}/configmaps/{names[0]}")
            self.clouds = _clouds(self.settings, {field: held["data"][name] for field, name in files.items()})
            self.settings_seen = True
        except (SettingsError, errors.KubeError, LookupError, TypeError, ValueError, RecursionError) as error:
            return [warn(CLUSTER, "settings", f"the release's settings cannot be read ({error})", "helm upgrade it")]
        return [ok(CLUSTER, "settings", f"clouds {', '.join(self._described(sorted(self.clouds)))}")]

    async def _leader(self, release: Release) -> list[Check]:
        """Return which replica leads, unless the release has no election."""
        if not (name := self.settings.lease_name):
            return []
        path = f"/apis/coordination.k8s.io/v1/namespaces/{release.namespace}/leases/{name}"
        try:
            lease = msgspec.convert(await self._caller.object(path), Lease)
        except errors.NotFound:
            lease = None
        except (errors.KubeError, msgspec.ValidationError) as error:
            why = short(error) if isinstance(error, errors.KubeError) else str(error)
            return [warn(CLUSTER, "leader", f"the Lease {name} cannot be read ({why})", "ask an administrator")]
        return [checks.leader(lease, datetime.now(UTC))]

    def _described(self, names: Iterable[str]) -> Iterable[str]:
        """The clouds with the hosts of those that are not Azure's own."""
        for name in names:
            hosts, own = trusted_hosts.hosts(self.clouds[name]), BUILT_IN_CLOUDS.get(name)
            yield name if own and hosts == trusted_hosts.hosts(own) else f"{name} ({', '.join(hosts)})"

    async def _policies(self, release: Release) -> Check:
        brought = [policy for policy in policies.POLICIES if policy.there(self.settings)]
        wanted = [f"{policy.name}.{release.name}.{release.namespace}" for policy in brought]
        path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
        try:
            there = await self._caller.objects(f"{path}ies", LABELS)
            bindings = await self._caller.objects(f"{path}ybindings", LABELS)
        except errors.NotFound:
            text = f"this Kubernetes has no admission policies (they came with {policies.SINCE})"
            return warn(CLUSTER, "policies", text, "upgrade it, or confine the controller with watchNamespaces")
        except errors.Refused as error:
            return _unseen("policies", error, "ask an administrator to look")
        return checks.policies(wanted, [each["metadata"]["name"] for each in there], bindings)

    async def _read_issuer(self) -> Check:
        """The issuer that the API server names, and what the world finds there."""
        try:
            document = await self._caller.object("/.well-known/openid-configuration")
            held = await self._caller.object("/openid/v1/jwks")
        except errors.KubeError as error:
            return _unseen("issuer", error, "bind yourself to the ClusterRole system:service-account-issuer-discovery")
        self.issuer = str(document["issuer"])
        try:
            published = await self._outside.document(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            public = await self._outside.document(str(published.get("jwks_uri", "")))
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError) as error:
            text = f"{self.issuer} cannot be reached from here ({type(error).__name__})"
            return warn(CLUSTER, "issuer", text, "Entra must reach it: publish the discovery document there")
        return checks.issuer(self.issuer, _key_ids(held), published, _key_ids(public))


def _clouds(settings: Settings, files: Mapping[str, str]) -> dict[str, Cloud]:
    """Read the clouds from the ConfigMap's texts, by the setting that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        # The ConfigMap does not say what the files are called here.
        for field, text in files.items():
            Path(folder, field).write_text(text)
        return msgspec.structs.replace(settings, **{field: f"{folder}/{field}" for field in files}).clouds()


def _key_ids(document: Object) -> list[str]:
    return [str(key["kid"]) for key in document["keys"]]


def _unseen(name: str, error: errors.KubeError, fix: str) -> Check:
    return warn(CLUSTER, name, f"it could not be seen: {short(error)}", fix)
