"""Read which permissions a release's ServiceAccount has (from its bindings) and which it used (from the audit log)."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from controller.api.meta import CLIENT_ID, TENANT_ID
from tests.support.cluster.harness import TENANT, InstalledRelease, audit_lines, eventually
from tests.support.cluster.namespace import Namespace
from tools.local_cluster import ControlPlane

EVERYWHERE = "*"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Permission(NamedTuple):
    """A verb on a resource, in one namespace or all, for one object or all."""

    scope: str
    verb: str
    group: str
    resource: str
    name: str = ""


def list_granted(installed: InstalledRelease) -> set[Permission]:
    """Return the permissions that the release's roles grant to the controller's ServiceAccount."""
    return set(iterate_granted(installed))


def iterate_granted(installed: InstalledRelease) -> Iterator[Permission]:
    namespace, account = installed.user.split(":")[2:]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    for kind in ("clusterrolebindings", "rolebindings"):
        for binding in installed.plane.read_object(f"{_RBAC}/{kind}")["items"]:
            if not any(subject.items() <= given.items() for given in binding.get("subjects", [])):
                continue
            place, role = binding["metadata"].get("namespace"), binding["roleRef"]
            where = f"/namespaces/{place}/roles" if role["kind"] == "Role" else "/clusterroles"
            for rule in installed.plane.read_object(f"{_RBAC}{where}/{role['name']}")["rules"]:
                for name in rule.get("resourceNames", [""]):
                    for group in rule["apiGroups"]:
                        for resource in rule["resources"]:
                            yield from (
                                Permission(place or EVERYWHERE, verb, group, resource, name) for verb in rule["verbs"]
                            )


def is_allowed(plane: ControlPlane, user: str, right: Permission) -> bool:
    """Return whether the API server allows this to a user that has only the groups of every user.

    The scope is a namespace or `EVERYWHERE`.
    """
    resource, _, sub = right.resource.partition("/")
    scope = "" if right.scope == EVERYWHERE else right.scope
    asked = {"namespace": scope, "verb": right.verb, "group": right.group, "resource": resource, "subresource": sub}
    groups = ["system:authenticated"]
    if user.startswith("system:serviceaccount:"):
        groups += ["system:serviceaccounts", f"system:serviceaccounts:{user.split(':')[2]}"]
    spec = {"user": user, "groups": groups, "resourceAttributes": asked | {"name": right.name}}
    status, text = plane.request("POST", _REVIEWS, {"spec": spec})
    assert status == 201, text
    return bool(json.loads(text)["status"]["allowed"])


def use_all_permissions(space: Namespace, *, akv_sync: bool = True, identity: bool = False) -> None:
    """Make the controller do everything that it can do in a namespace, so that it uses all its permissions."""
    unsaid = {"clientID": "", "tenantID": ""} if identity else {}
    if identity:
        given = (f"{CLIENT_ID}={space.client}", f"{TENANT_ID}={TENANT}")
        space.kubectl("annotate", "serviceaccount", space.account, *given, "--overwrite")
    space.set_secret("a", "1")
    space.apply(space.provider_class("a", **unsaid), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.set_secret("a", "2")
    space.force_sync("s")
    space.wait_secret("s", {"k": "2"})
    others = set(space.list_names("secretsync"))
    # The controller creates, patches and deletes the SecretSyncs of an AKVSync.
    for labels, *secrets in (["one", "a"], ["two", "a", "b"], ["three", "b"]) if akv_sync else ():
        space.apply(space.akv_sync(*({"secretInAKV": name, "labels": {"of": labels}} for name in secrets)))
        eventually(lambda: space.list_names("secretsync"), sorted([*secrets, *others]).__eq__)


def assert_all_granted_used(installed: InstalledRelease) -> None:
    """Wait until the used permissions equal the granted ones. The controller sends events after the status."""
    eventually(lambda: list_used(installed), lambda found: found == list_granted(installed))


def list_used(installed: InstalledRelease) -> set[Permission]:
    """Return the permissions that the controller used, each as the narrowest granted one that allows the request."""
    allowed = list_granted(installed)
    return {
        next((right for right in _by_width(asked) if right in allowed), asked) for asked in iterate_requested(installed)
    }


def _by_width(asked: Permission) -> Iterator[Permission]:
    for scope in (asked.scope, EVERYWHERE):
        for name in (asked.name, ""):
            yield asked._replace(scope=scope, name=name)


def iterate_requested(installed: InstalledRelease) -> Iterator[Permission]:
    for line in audit_lines(installed.plane):
        if installed.user not in line:
            continue
        entry = json.loads(line)
        # Requests that a test sent with the controller's stolen token have another user agent.
        if entry["user"]["username"] != installed.user or not entry.get("userAgent", "").startswith("akv-secret-store"):
            continue
        where = entry["objectRef"]
        resource = "/".join(part for part in (where["resource"], where.get("subresource", "")) if part)
        yield Permission(
            where.get("namespace") or EVERYWHERE,
            entry["verb"],
            where.get("apiGroup", ""),
            resource,
            where.get("name", ""),
        )
