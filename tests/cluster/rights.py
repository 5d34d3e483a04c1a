"""What a release's ServiceAccount may do, by its bindings, and what it did, by the audit log."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from controller.api.meta import CLIENT_ID, TENANT_ID
from tests.cluster.world import TENANT, Installed, Namespace, eventually

EVERYWHERE = "*"


class Right(NamedTuple):
    """A verb on a resource: in a namespace or everywhere, with all objects or the one of that name."""

    scope: str
    verb: str
    group: str
    resource: str
    name: str = ""


def granted(installed: Installed) -> set[Right]:
    """What the release's roles give to the controller's ServiceAccount."""
    return set(_granted(installed))


def _granted(installed: Installed) -> Iterator[Right]:
    namespace, account = installed.user.split(":")[2:]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    for kind in ("clusterrolebindings", "rolebindings"):
        found = json.loads(installed.plane.kubectl("get", kind, "--all-namespaces", "-o", "json"))
        for binding in found["items"]:
            if not any(subject.items() <= given.items() for given in binding.get("subjects", [])):
                continue
            place = binding["metadata"].get("namespace")
            where = ["--namespace", place] if place else []
            role = installed.plane.kubectl(
                "get", binding["roleRef"]["kind"].lower(), binding["roleRef"]["name"], *where, "-o", "json"
            )
            for rule in json.loads(role)["rules"]:
                for name in rule.get("resourceNames", [""]):
                    for group in rule["apiGroups"]:
                        for resource in rule["resources"]:
                            yield from (
                                Right(place or EVERYWHERE, verb, group, resource, name) for verb in rule["verbs"]
                            )


def play(space: Namespace, *, akv_sync: bool = True, identity: bool = False) -> None:
    """Everything that the controller does there, with what the release's values ask for besides."""
    unsaid = {"clientID": "", "tenantID": ""} if identity else {}
    if identity:
        given = (f"{CLIENT_ID}={space.client}", f"{TENANT_ID}={TENANT}")
        space.kubectl("annotate", "serviceaccount", space.account, *given, "--overwrite")
    space.put("a", "1")
    space.apply(space.provider_class("a", **unsaid), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.put("a", "2")
    space.force("s")
    space.wait_secret("s", {"k": "2"})
    others = set(space.names("secretsync"))
    # An AKVSync's parts are made, mended and pruned.
    for labels, *secrets in (["one", "a"], ["two", "a", "b"], ["three", "b"]) if akv_sync else ():
        space.apply(space.akv_sync(*({"secretInAKV": name, "labels": {"of": labels}} for name in secrets)))
        eventually(lambda: space.names("secretsync"), sorted([*secrets, *others]).__eq__)


def uses_what_is_granted(installed: Installed) -> None:
    """granted == used, a moment after the last thing was done: an event comes after its status."""
    eventually(lambda: used(installed), lambda found: found == granted(installed))


def used(installed: Installed) -> set[Right]:
    """What the controller's ServiceAccount asked for, each as the narrowest right that allows it."""
    allowed = granted(installed)
    return {next((right for right in _by_width(asked) if right in allowed), asked) for asked in _asked(installed)}


def _by_width(asked: Right) -> Iterator[Right]:
    for scope in (asked.scope, EVERYWHERE):
        for name in (asked.name, ""):
            yield asked._replace(scope=scope, name=name)


def _asked(installed: Installed) -> Iterator[Right]:
    for line in installed.plane.audit_log.read_text().splitlines():
        if installed.user not in line:
            continue
        entry = json.loads(line)
        # Requests that a test sent with the controller's stolen token have another user agent.
        if entry["user"]["username"] != installed.user or not entry.get("userAgent", "").startswith("akv-secret-store"):
            continue
        where = entry["objectRef"]
        resource = "/".join(part for part in (where["resource"], where.get("subresource", "")) if part)
        yield Right(
            where.get("namespace") or EVERYWHERE,
            entry["verb"],
            where.get("apiGroup", ""),
            resource,
            where.get("name", ""),
        )
