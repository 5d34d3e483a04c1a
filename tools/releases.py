"""Finds this product's releases in a cluster by objects that only cluster administrators can create.

A label proves nothing: an editor of any namespace can create a Deployment with ours. A release is one that a
ClusterRoleBinding, or an admission policy, of the cluster names together with its ServiceAccount; its Deployment has
the name and the ServiceAccount that they say. An editor of the release's own namespace can still change that
Deployment and its ConfigMap: see `tools.trusted_hosts`.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

from controller import errors
from controller.crds import PART_OF
from tools import policies
from tools.caller import Caller, Object
from tools.command import BadInput

LABELS = "=".join(PART_OF)
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_INSTANCE = "app.kubernetes.io/instance"
_USER = re.compile(r"'system:serviceaccount:([a-z0-9-]+):\s*([a-z0-9.-]+)'")


class Account(msgspec.Struct, frozen=True, order=True):
    """What administrators' objects say of a release: its namespace, its Deployment's name and its ServiceAccount."""

    namespace: str
    deployment: str
    name: str
    release: str = ""
    """The name that helm knows it by."""


class Release(msgspec.Struct, frozen=True):
    """A release whose Deployment is there. `verified` says that administrators' objects name it."""

    deployment: Object
    release: str = ""
    verified: bool = True

    @property
    def namespace(self) -> str:
        """Where its Deployment is."""
        return str(self.deployment["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """The name of its Deployment."""
        return str(self.deployment["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" + (f" (release {self.release})" if self.release else "")


class Choice(msgspec.Struct, frozen=True):
    """Which release the caller means; empty fields leave it open."""

    namespace: str = ""
    release: str = ""

    def fits(self, namespace: str, *names: str) -> bool:
        """Return whether a release of this namespace, by one of these names, is meant."""
        return self.namespace in ("", namespace) and (not self.release or self.release in names)


class NotSeen(Exception):  # noqa: N818 -- an answer, not an error
    """The caller may not list what would name the release; the message is the API server's."""


async def search(caller: Caller, choice: Choice) -> list[Release]:
    """Return the releases that fit the choice, by namespace and name.

    Without a namespace in the choice, only administrators' objects count, and `NotSeen` says that the caller may not
    list them. With one, the caller vouches for that namespace: where no such object names a release there, its
    Deployments with our label are taken.
    """
    try:
        found = await _verified(caller, choice)
    except errors.Refused as error:
        if not choice.namespace:
            raise NotSeen(error.message) from error
        found = []
    if found or not choice.namespace:
        return found
    labelled = await caller.objects(f"/apis/apps/v1/namespaces/{choice.namespace}/deployments", LABELS)
    releases = [Release(each, _label(each), verified=False) for each in labelled]
    return sorted(
        (each for each in releases if choice.fits(each.namespace, each.release, each.name)),
        key=lambda each: each.name,
    )


async def labelled(caller: Caller) -> list[Release]:
    """Return every Deployment with our label: what an editor of its namespace may have made up."""
    return [
        Release(each, _label(each), verified=False)
        for each in await caller.objects("/apis/apps/v1/deployments", LABELS)
    ]


def only(found: Sequence[Release]) -> Release | None:
    """Return the one release, None where there is none; `BadInput` asks which one where there are several."""
    if len(found) < 2:
        return found[0] if found else None
    which = ", ".join(map(str, found))
    several = len({each.namespace for each in found}) > 1
    flag = "--release-namespace NAMESPACE" if several else "--release NAME"
    raise BadInput(f"several releases fit: {which}; name one with {flag}")


async def _verified(caller: Caller, choice: Choice) -> list[Release]:
    found = []
    for account in await _accounts(caller):
        if not choice.fits(account.namespace, account.release, account.deployment):
            continue
        path = f"/apis/apps/v1/namespaces/{account.namespace}/deployments/{account.deployment}"
        try:
            deployment = await caller.object(path)
        except errors.NotFound:
            continue  # an uninstalled release left its binding, or a hook's binding names no Deployment
        if runs_as(deployment) == account.name:
            found.append(Release(deployment, account.release))
    return found


async def _accounts(caller: Caller) -> list[Account]:
    bindings = await caller.objects(f"{_RBAC}/clusterrolebindings", LABELS)
    try:
        rules = await caller.objects(f"{_ADMISSION}/validatingadmissionpolicies", LABELS)
    except (errors.NotFound, errors.Refused):
        rules = []  # an older Kubernetes, or the bindings have to do
    return accounts(bindings, rules)


def accounts(bindings: Iterable[Object], rules: Iterable[Object]) -> list[Account]:
    """Return what these ClusterRoleBindings and ValidatingAdmissionPolicies name, each release once."""
    found: dict[tuple[str, str, str], str] = {}
    for binding in bindings:
        name, _, namespace = binding["metadata"]["name"].rpartition(".")
        for subject in binding.get("subjects") or []:
            if (subject.get("kind"), subject.get("namespace")) == ("ServiceAccount", namespace):
                found.setdefault((namespace, name, subject["name"]), _label(binding))
    prefixes = tuple(f"{policy.name}." for policy in policies.POLICIES)
    for rule in rules:
        name, _, namespace = rule["metadata"]["name"].rpartition(".")
        prefix = next((each for each in prefixes if name.startswith(each)), "")
        text = " ".join(str(each.get("expression")) for each in rule["spec"].get("matchConditions") or [])
        if prefix and (user := _USER.search(text)) and user[1] == namespace:
            found.setdefault((namespace, name.removeprefix(prefix), user[2]), _label(rule))
    return sorted(Account(*key, release) for key, release in found.items())


def runs_as(deployment: Object) -> str:
    """Return the name of the ServiceAccount that a Deployment's pods run as."""
    spec = deployment["spec"]["template"]["spec"]
    return str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")


def _label(found: Object) -> str:
    return str((found["metadata"].get("labels") or {}).get(_INSTANCE, ""))
