"""Find this product's releases in a cluster by objects that only cluster administrators can create.

A label proves nothing: an editor of any namespace can create a Deployment with this product's label. Therefore a
Deployment is a release only if a ClusterRoleBinding or an admission policy names it and its ServiceAccount. An editor
of the release's own namespace can still change that Deployment and its ConfigMap: see
`tools.cli.doctor.trusted_hosts`.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

from controller import errors
from controller.crd_upgrade.job import PART_OF
from tools.cli.common.command import BadInput
from tools.cli.common.kube_client import Object, OperatorKubeClient
from tools.codegen import policies

LABELS = "=".join(PART_OF)
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_INSTANCE = "app.kubernetes.io/instance"
_USER = re.compile(r"'system:serviceaccount:([a-z0-9-]+):\s*([a-z0-9.-]+)'")


class ReleaseAccount(msgspec.Struct, frozen=True, order=True):
    """A release as administrators' objects name it: its namespace, its Deployment and its ServiceAccount."""

    namespace: str
    deployment: str
    name: str
    release: str = ""
    """The name of the helm release."""


class ControllerRelease(msgspec.Struct, frozen=True):
    """A release whose Deployment exists. `verified` means that an administrator's object names it."""

    deployment: Object
    release: str = ""
    verified: bool = True

    @property
    def namespace(self) -> str:
        """The namespace of its Deployment."""
        return str(self.deployment["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """The name of its Deployment."""
        return str(self.deployment["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" + (f" (release {self.release})" if self.release else "")


class ReleaseChoice(msgspec.Struct, frozen=True):
    """The release that the caller selects. An empty field matches every release."""

    namespace: str = ""
    release: str = ""

    def fits(self, namespace: str, *names: str) -> bool:
        """Return whether the choice includes a release in this namespace with one of these names."""
        return self.namespace in ("", namespace) and (not self.release or self.release in names)


ANY_RELEASE = ReleaseChoice()


class NotSeen(Exception):  # noqa: N818 -- an answer, not an error
    """The caller may not list the objects that name releases. The message is the API server's."""


async def find_releases(caller: OperatorKubeClient, choice: ReleaseChoice) -> list[ControllerRelease]:
    """Return the releases that fit the choice, sorted by namespace and name.

    Without a namespace in the choice, only administrators' objects count. Raise `NotSeen` if the caller may not list
    them. A caller who names a namespace trusts it: if no such object names a release there, return its Deployments
    with this product's label.
    """
    try:
        found = await _find_verified(caller, choice)
    except errors.Refused as error:
        if not choice.namespace:
            raise NotSeen(error.message) from error
        found = []
    if found or not choice.namespace:
        return found
    labelled = await caller.list_objects(f"/apis/apps/v1/namespaces/{choice.namespace}/deployments", LABELS)
    releases = [ControllerRelease(each, _label_of(each), verified=False) for each in labelled]
    return sorted(
        (each for each in releases if choice.fits(each.namespace, each.release, each.name)),
        key=lambda each: each.name,
    )


async def list_labelled(caller: OperatorKubeClient) -> list[ControllerRelease]:
    """Return every Deployment with this product's label. An editor of its namespace can have forged it."""
    return [
        ControllerRelease(each, _label_of(each), verified=False)
        for each in await caller.list_objects("/apis/apps/v1/deployments", LABELS)
    ]


def choose_release(found: Sequence[ControllerRelease]) -> ControllerRelease | None:
    """Return the only release, or None if there is none. Raise `BadInput` if there are several."""
    if len(found) < 2:
        return found[0] if found else None
    which = ", ".join(map(str, found))
    several = len({each.namespace for each in found}) > 1
    flag = "--release-namespace NAMESPACE" if several else "--release NAME"
    raise BadInput(f"several releases fit: {which}; name one with {flag}")


async def _find_verified(caller: OperatorKubeClient, choice: ReleaseChoice) -> list[ControllerRelease]:
    found = []
    for account in await _read_accounts(caller):
        if not choice.fits(account.namespace, account.release, account.deployment):
            continue
        path = f"/apis/apps/v1/namespaces/{account.namespace}/deployments/{account.deployment}"
        try:
            deployment = await caller.get_object(path)
        except errors.NotFound:
            continue  # an uninstalled release left its binding, or a hook's binding names no Deployment
        if runs_as(deployment) == account.name:
            found.append(ControllerRelease(deployment, account.release))
    return found


async def _read_accounts(caller: OperatorKubeClient) -> list[ReleaseAccount]:
    bindings = await caller.list_objects(f"{_RBAC}/clusterrolebindings", LABELS)
    try:
        rules = await caller.list_objects(f"{_ADMISSION}/validatingadmissionpolicies", LABELS)
    except (errors.NotFound, errors.Refused):
        rules = []  # Kubernetes is too old, or the caller may not list policies: only the bindings count
    return list_accounts(bindings, rules)


def list_accounts(bindings: Iterable[Object], rules: Iterable[Object]) -> list[ReleaseAccount]:
    """Return the releases that these ClusterRoleBindings and ValidatingAdmissionPolicies name, each once."""
    found: dict[tuple[str, str, str], str] = {}
    for binding in bindings:
        name, _, namespace = binding["metadata"]["name"].rpartition(".")
        for subject in binding.get("subjects") or []:
            if (subject.get("kind"), subject.get("namespace")) == ("ServiceAccount", namespace):
                found.setdefault((namespace, name, subject["name"]), _label_of(binding))
    prefixes = tuple(f"{policy.name}." for policy in policies.POLICIES)
    for rule in rules:
        name, _, namespace = rule["metadata"]["name"].rpartition(".")
        prefix = next((each for each in prefixes if name.startswith(each)), "")
        text = " ".join(str(each.get("expression")) for each in rule["spec"].get("matchConditions") or [])
        if prefix and (user := _USER.search(text)) and user[1] == namespace:
            found.setdefault((namespace, name.removeprefix(prefix), user[2]), _label_of(rule))
    return sorted(ReleaseAccount(*key, release) for key, release in found.items())


def runs_as(deployment: Object) -> str:
    """Return the name of the ServiceAccount that a Deployment's pods run as."""
    spec = deployment["spec"]["template"]["spec"]
    return str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")


def _label_of(found: Object) -> str:
    return str((found["metadata"].get("labels") or {}).get(_INSTANCE, ""))
