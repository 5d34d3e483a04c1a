"""Check the Secrets of a soak run against the vaults, and sample the controller process."""

import base64
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from tests.soak.process_growth import ProcessSample, take_sample
from tests.support.cluster.harness import InstalledRelease, canary_value, eventually, read_metrics
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess

VAULTS = 4
# After many failures, the controller waits up to five minutes before it retries. One minute more is for the retry.
RETRY_TIMEOUT_SECONDS = 360.0
CHECK_INTERVAL_SECONDS = 10.0
SAMPLE_INTERVAL_SECONDS = 1.0
# The name of the source object and of the Secret's key in each SecretSync.
SECRET_KEY = "k"


class ObjectKey(NamedTuple):
    """The namespace and name of a SecretSync. Its Secret and its object in the namespace's vault have the same name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class SecretContent(NamedTuple):
    """The UID and the decoded values of a Secret."""

    uid: str
    values: dict[str, str]


class SoakState:
    """`count` SecretSyncs with one key each, in one namespace for each vault, and what their Secrets may contain.

    A Secret must have a value that its vault object has or had, or a value that a user wrote. It must keep its UID
    unless an action deleted it.
    """

    def __init__(
        self, installed: InstalledRelease, controller: PodProcess, count: int, report: Callable[[str], None]
    ) -> None:
        self.installed = installed
        self.controller = controller
        self.report = report
        self.namespaces = [Namespace(installed) for _ in range(VAULTS)]
        self.names = [f"s{number:04}" for number in range(count // VAULTS)]
        self.keys = [ObjectKey(namespace.name, name) for namespace in self.namespaces for name in self.names]
        self.samples: list[ProcessSample] = []
        """The samples of the running controller process."""
        self._namespaces_by_name = {namespace.name: namespace for namespace in self.namespaces}
        self._allowed_values: dict[ObjectKey, set[str]] = defaultdict(set)
        self._newest_values: dict[ObjectKey, str] = {}
        self._expected_uids: dict[ObjectKey, str] = {}
        self._last_version = 0
        self._sampled_at = self._checked_at = 0.0

    def create_objects(self) -> None:
        """Create all vault objects, SecretProviderClasses and SecretSyncs, and wait for the Secrets."""
        for key in self.keys:
            self.set_new_version(key)
        for namespace in self.namespaces:
            namespace.apply(namespace.provider_class(*self.names))
            namespace.apply(*(secretsync(namespace, name) for name in self.names))
        self.wait_for_newest_values()
        self.check_secrets()

    def remove_namespaces(self) -> None:
        """Remove the namespaces with all their objects."""
        for namespace in self.namespaces:
            namespace.remove()

    def namespace_of(self, key: ObjectKey) -> Namespace:
        """Return the namespace of a SecretSync."""
        return self._namespaces_by_name[key.namespace]

    def set_new_version(self, key: ObjectKey) -> None:
        """Set a new version of a vault object."""
        self._last_version += 1
        text = f"{key.namespace} {key.name} {self._last_version}"
        self.namespace_of(key).set_secret(key.name, text)
        self._newest_values[key] = canary_value(text)
        self.allow_value(key, canary_value(text))

    def allow_value(self, key: ObjectKey, value: str) -> None:
        """Accept this value in the Secret from now on."""
        self._allowed_values[key].add(value)

    def allow_deletion(self, key: ObjectKey) -> None:
        """Accept that the Secret is deleted or gets another UID, until all Secrets have the newest value."""
        self._expected_uids.pop(key, None)

    def read_uid(self, key: ObjectKey) -> str:
        """Return the UID of a Secret, or an empty text if there is no Secret."""
        return str(self.namespace_of(key).get("secret", key.name).get("metadata", {}).get("uid", ""))

    def read_secrets(self) -> dict[ObjectKey, SecretContent]:
        """Return the contents of all Secrets."""
        found = {}
        for namespace in self.namespaces:
            for secret in namespace.list_objects("secret"):
                values = {key: base64.b64decode(text).decode() for key, text in secret.get("data", {}).items()}
                metadata = secret["metadata"]
                found[ObjectKey(namespace.name, metadata["name"])] = SecretContent(metadata["uid"], values)
        return found

    def check_secrets(self) -> None:
        """Check that no Secret is lost or recreated without an action, and that each has one of its allowed values."""
        secrets = self.read_secrets()
        for key, uid in self._expected_uids.items():
            assert key in secrets, f"{key}: no action deleted the Secret, but it does not exist"
            assert secrets[key].uid == uid, f"{key}: no action deleted the Secret, but its UID changed"
        for key, (_, values) in secrets.items():
            assert values.keys() == {SECRET_KEY}, f"{key}: the Secret has the keys {sorted(values)}"
            assert values[SECRET_KEY] in self._allowed_values[key], (
                f"{key}: the vault object never had the Secret's value"
            )

    def list_outdated(self) -> list[ObjectKey]:
        """List the Secrets that do not have the newest value. If there are none, expect the UIDs of now."""
        secrets = self.read_secrets()
        absent = SecretContent("", {})
        outdated = [
            key for key in self.keys if secrets.get(key, absent).values != {SECRET_KEY: self._newest_values[key]}
        ]
        if not outdated:
            self._expected_uids = {key: secret.uid for key, secret in secrets.items()}
        return outdated

    def wait_for_newest_values(self) -> None:
        """Wait until all Secrets have the newest value. On a timeout, report the statuses of those that do not."""
        began = time.monotonic()

        def poll_outdated() -> list[ObjectKey]:
            time.sleep(1)
            self.sample_process()
            return self.list_outdated()

        try:
            eventually(poll_outdated, lambda outdated: not outdated, RETRY_TIMEOUT_SECONDS)
        except AssertionError:
            for key in self.list_outdated():
                self.report(f"{key}: {self.namespace_of(key).get('secretsync', key.name).get('status')}")
            self.report(read_metrics(self.controller))
            raise
        self.report(
            f"all Secrets have the newest value after {time.monotonic() - began:.0f} s; {self.describe_process()}"
        )

    def watch_until(self, moment: float) -> None:
        """Sample the process and check the Secrets until that time of the monotonic clock."""
        while (now := time.monotonic()) < moment:
            self.sample_process()
            if now - self._checked_at >= CHECK_INTERVAL_SECONDS:
                self._checked_at = now
                self.check_secrets()
            time.sleep(max(0.0, min(SAMPLE_INTERVAL_SECONDS, moment - time.monotonic())))

    def sample_process(self) -> None:
        """Sample the controller process, unless the last sample is younger than the interval."""
        now = time.monotonic()
        if now - self._sampled_at >= SAMPLE_INTERVAL_SECONDS:
            self._sampled_at = now
            self.samples.append(take_sample(self.controller.pid, now))

    def describe_process(self) -> str:
        """Return the memory and the descriptors of the running process as text."""
        return str(self.samples[-1]) if self.samples else "process not sampled yet"

    def count_vault_calls(self) -> int:
        """Return the number of calls that all vaults have received."""
        return sum(namespace.count_calls() for namespace in self.namespaces)


def secretsync(namespace: Namespace, name: str) -> dict[str, object]:
    """Return the manifest of the SecretSync of a vault object."""
    return namespace.sync(name, {SECRET_KEY: name})
