"""A thief: the holder of the controller's own token, with whatever the chart's Roles and policies leave it."""

import itertools
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS
from tests.hostile.arena import CLUSTERS_OWN, Arena, Attacker
from tests.hostile.drawing import draw_attacks
from tests.hostile.texts import TEXTS, mostly
from tests.support.cluster.harness import SINCE_POLICIES, create_object
from tests.support.cluster.token_thief import (
    MERGE,
    STRATEGIC,
    TARGET_NAMESPACE,
    TargetNamespace,
    make_event,
    make_owner,
    make_secret,
)

pytestmark = pytest.mark.since(*SINCE_POLICIES)
APPLY = "application/apply-patch+yaml"
UID = "11111111-1111-1111-1111-111111111111"
# What a request that must not succeed is answered with: no right, absent, a conflict, or refused by a policy.
REFUSED = {400, 403, 404, 405, 409, 415, 422}
_numbers = itertools.count(1)


@pytest.fixture
def thief(arena: Arena) -> Attacker:
    return arena.thief


@pytest.fixture(scope="module")
def shop(arena: Arena) -> Iterator[TargetNamespace]:
    """Provide a namespace with SecretSyncs of another controller: what the thief writes there, nothing corrects."""
    create_object(arena.plane, "namespaces", TARGET_NAMESPACE)
    found = TargetNamespace(arena.plane)
    yield found
    arena.plane.request("DELETE", f"/api/v1/namespaces/{TARGET_NAMESPACE}")


def secrets_of(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/secrets" + (f"/{name}" if name else "")


def owned(thief: Attacker, shop: TargetNamespace) -> str:
    """Return the name of a Secret that the thief may write, as the controller does."""
    name = f"owned-{next(_numbers)}"
    answer = thief.send(
        "POST", secrets_of(TARGET_NAMESPACE), make_secret(name, [make_owner(shop.create_sync(name), name)])
    )
    assert answer.status == 201, answer.text
    return name


PLANTED: dict[str, dict[str, Any]] = {
    "a finalizer": {"metadata": {"finalizers": ["example.com/stay"]}},
    "immutable": {"immutable": True},
    "a record of Helm": {"metadata": {"labels": {"owner": "helm", "name": "x", "status": "deployed", "version": "1"}}},
    "a label of Helm": {"metadata": {"labels": {"helm.sh/chart": "x"}}},
    "a release of Helm": {"metadata": {"annotations": {"meta.helm.sh/release-name": "x"}}},
    "a cluster of Argo CD": {"metadata": {"labels": {"argocd.argoproj.io/secret-type": "cluster"}}},
    "managed-by": {"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}},
    "an owner of another version": {
        "metadata": {"ownerReferences": [make_owner(UID, "x", apiVersion="secret-sync.x-k8s.io/v9")]}
    },
    "a second owner": {"metadata": {"ownerReferences": [make_owner(UID, "x"), make_owner(UID[:-1] + "2", "y")]}},
    "another type": {"type": "kubernetes.io/service-account-token"},
}


def test_known_attacks(arena: Arena, thief: Attacker, shop: TargetNamespace) -> None:
    victim, home = arena.neighbours[0].name, arena.installed.release

    def refused(method: str, path: str, body: Any = None, kind: str = "application/json") -> None:
        answer = thief.send(method, path, body, kind)
        assert answer.status in REFUSED, f"{method} {path}: {answer.status} {answer.text[:300]}"

    def plant(change: dict[str, Any]) -> None:
        name = f"planted-{next(_numbers)}"
        body = make_secret(name, [make_owner(UID, name)]) | {
            key: value for key, value in change.items() if key != "metadata"
        }
        body["metadata"] |= change.get("metadata", {})
        refused("POST", secrets_of(TARGET_NAMESPACE), body)
        refused("PATCH", f"{secrets_of(TARGET_NAMESPACE, name)}?fieldManager=x&force=true", body, APPLY)
        refused("PATCH", secrets_of(TARGET_NAMESPACE, owned(thief, shop)), change, MERGE)

    def elsewhere() -> None:
        for namespace in CLUSTERS_OWN:
            refused("POST", secrets_of(namespace), make_secret("x", [make_owner(UID, "x")]))
        for name in ("sh.helm.release.v1.x.v1", "bootstrap-token-abcdef"):
            refused("POST", secrets_of(TARGET_NAMESPACE), make_secret(name, [make_owner(UID, name)]))

    def foreign_secrets() -> None:
        for namespace in (victim, "kube-system"):
            path = secrets_of(namespace, "theirs")
            for kind in (MERGE, STRATEGIC, "application/json-patch+json"):
                refused("PATCH", path, [] if "json-patch" in kind else {}, kind)
            refused("PATCH", f"{path}?fieldManager=x&force=true&dryRun=All", make_secret("theirs", []), APPLY)
            for verb in ("GET", "DELETE", "PUT"):
                refused(verb, path, make_secret("theirs", []) if verb == "PUT" else None)
            for query in ("", "?watch=true&timeoutSeconds=1", "?fieldSelector=metadata.name%3Dtheirs"):
                refused("GET", secrets_of(namespace) + query)
        refused("GET", "/api/v1/secrets")

    def what_people_wrote() -> None:
        for kind, name in (("secretsyncs", "s"), ("akvsyncs", "none")):
            path = f"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{victim}/{kind}/{name}"
            refused("PATCH", path, {"spec": {"secretProviderClassName": "x"}}, MERGE)
            refused("PATCH", path, {"metadata": {"finalizers": ["example.com/stay"]}}, MERGE)
            refused("DELETE", path)
        path = f"/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{victim}/secretproviderclasses/shop"
        refused("PATCH", path, {"spec": {"parameters": {"keyvaultName": "x"}}}, MERGE)
        refused("DELETE", path)

    def tokens() -> None:
        def ask(account: str, namespace: str = victim, **spec: Any) -> None:
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
            refused("POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})

        ask("shop", audiences=["https://kubernetes.default.svc"])
        ask("shop", audiences=[])
        ask("shop", audiences=[TOKEN_AUDIENCE, arena.plane.issuer], expirationSeconds=TOKEN_SECONDS)
        ask("shop", audiences=[TOKEN_AUDIENCE], expirationSeconds=86_400)
        ask("default", "kube-system", audiences=[TOKEN_AUDIENCE], expirationSeconds=TOKEN_SECONDS)

    def leases_and_events() -> None:
        leases = "/apis/coordination.k8s.io/v1/namespaces"
        refused("POST", f"{leases}/{home}/leases", {"metadata": {"name": "another"}})
        refused("POST", f"{leases}/kube-system/leases", {"metadata": {"name": arena.controller.env["LEASE_NAME"]}})
        refused("PATCH", f"{leases}/kube-system/leases/kube-controller-manager", {}, MERGE)
        for change in ({"reportingController": "kubelet"}, {"regarding": {"kind": "Pod", "name": "x"}}):
            refused("POST", f"/apis/events.k8s.io/v1/namespaces/{victim}/events", make_event(victim, **change))

    def other_resources() -> None:
        for path in (
            f"/api/v1/namespaces/{home}/configmaps", "/api/v1/nodes", "/api/v1/namespaces",
            f"/apis/apps/v1/namespaces/{home}/deployments", "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        ):  # fmt: skip
            refused("GET", path)
            refused("POST", path, {"metadata": {"name": "x"}})

    attacks = {name: (lambda change=change: plant(change)) for name, change in PLANTED.items()}
    others = (elsewhere, foreign_secrets, what_people_wrote, tokens, leases_and_events, other_resources)
    arena.carry_out({**attacks, **{each.__name__: each for each in others}})


# What is drawn: real writes, so that whatever a policy lets through lies there for the closing check. Each field has
# its type: where a patch does not fit, the API server quotes the whole Secret before any policy (SECURITY.md, "What is
# not promised").

KEYS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "x.", "a.b."]),
    st.sampled_from(
        [
            "helm.sh",
            "HELM.sh",
            "meta.helm.sh",
            "argoproj.io",
            "toolkit.fluxcd.io",
            "applyset.kubernetes.io",
            "kubectl.kubernetes.io",
            "addonmanager.kubernetes.io",
            "example.com",
            "app.kubernetes.io",
        ]
    ),
    st.sampled_from(["/chart", "/managed-by", "/instance", "/mode", "/x"]),
) | st.sampled_from(["owner", "name", "version", "status", "kubernetes.io/service-account.name"])
ENTRIES = st.dictionaries(KEYS, st.sampled_from(["helm", "Helm", "x", ""]), max_size=3)
CHANGED = st.fixed_dictionaries(
    {},
    optional={
        "labels": ENTRIES,
        "annotations": ENTRIES,
        "finalizers": st.lists(st.sampled_from(["example.com/stay", "kubernetes"]), max_size=2),
        "generateName": st.sampled_from(["drawn-", "sh.helm.release.v1.x.v"]),
        "deletionGracePeriodSeconds": st.just(10**6),
        "managedFields": st.just([{}]),
        "ownerReferences": st.lists(
            st.builds(
                lambda uid, changes: make_owner(uid, "drawn", **changes),
                st.sampled_from([UID, UID[:-1] + "2"]),
                st.dictionaries(
                    st.sampled_from(["apiVersion", "kind", "name"]),
                    st.sampled_from(["v1", "Secret", "SecretSync", "secret-sync.x-k8s.io/v2", "theirs"]),
                    max_size=2,
                )
                | st.dictionaries(st.sampled_from(["controller", "blockOwnerDeletion"]), st.booleans(), max_size=2),
            ),
            max_size=2,
        ),
    },
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "immutable": st.sampled_from([True, False, None]),
        "type": st.sampled_from(["Opaque", "helm.sh/release.v1", "kubernetes.io/service-account-token", "x/y"]),
        "stringData": st.dictionaries(st.sampled_from(["key", "a"]), TEXTS, max_size=2),
        "data": st.none() | st.dictionaries(st.sampled_from(["key", "a"]), st.sampled_from(["", "eA==", None])),
    },
)
QUERIES = mostly(
    "", st.sampled_from(["dryRun=All", "fieldValidation=Ignore", "fieldManager=akv-secret-store", "pretty=1"])
)
ACCEPTS = st.sampled_from(
    ["application/json", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
     "application/json;as=Table;g=meta.k8s.io;v=v1", "application/vnd.kubernetes.protobuf", "application/yaml"]
)  # fmt: skip


def test_drawn_requests(arena: Arena, thief: Attacker, shop: TargetNamespace) -> None:
    """Requests about Secrets, tokens, Leases, events and everything else, real ones; some of them are allowed."""
    owned_name = owned(thief, shop)
    uid = json.loads(arena.plane.request("GET", secrets_of(TARGET_NAMESPACE, owned_name))[1])["metadata"][
        "ownerReferences"
    ][0]["uid"]
    victims = [(each.name, name) for each in arena.neighbours for name in ("theirs",)] + [("kube-system", "theirs")]
    places = st.sampled_from(
        [
            (TARGET_NAMESPACE, owned_name),
            (TARGET_NAMESPACE, "drawn"),
            (TARGET_NAMESPACE, "sh.helm.release.v1.x.v1"),
            *victims,
        ]
    )
    kinds = st.sampled_from([MERGE, STRATEGIC, APPLY, "application/json-patch+json", "application/json"])
    others = [
        f"/apis/coordination.k8s.io/v1/namespaces/{arena.installed.release}/leases",
        f"/apis/events.k8s.io/v1/namespaces/{TARGET_NAMESPACE}/events",
        f"/api/v1/namespaces/{arena.neighbours[0].name}/serviceaccounts/shop/token",
        f"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{arena.neighbours[0].name}/secretsyncs",
        f"/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{arena.neighbours[0].name}/secretproviderclasses/shop",
        "/api/v1/namespaces/kube-system/configmaps",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "/api/v1/namespaces/kube-system/secrets:theirs",
    ]
    allowed = 0

    def attack(drawn: tuple[Any, ...]) -> None:
        nonlocal allowed
        (namespace, name), method, kind, metadata, fields, query, accept, other = drawn
        if other:
            thief.send(method, f"{other}?{query}", {"metadata": {"name": "drawn", **metadata}, **fields}, kind, accept)
            return
        references = [make_owner(uid if name == owned_name else UID, name)]
        body: Any = make_secret(name, references) | fields
        body["metadata"] |= metadata
        if method == "PATCH":
            body = {"metadata": metadata, **fields} if kind in (MERGE, STRATEGIC) else body
            if kind == "application/json-patch+json":
                body = [
                    {"op": "add", "path": f"/metadata/{field}", "value": value} for field, value in metadata.items()
                ]
            suffix = "&fieldManager=x&force=true" if kind == APPLY and "fieldManager" not in query else ""
            answer = thief.send(method, f"{secrets_of(namespace, quote(name))}?{query}{suffix}", body, kind, accept)
        elif method == "POST":
            answer = thief.send(method, f"{secrets_of(namespace)}?{query}", body, accept=accept)
        else:
            answer = thief.send(method, f"{secrets_of(namespace, name)}?{query}", accept=accept)
            assert answer.status in {403, 405, 406}, answer.text[:300]
        allowed += answer.status in (200, 201)

    methods = st.sampled_from(["PATCH"] * 5 + ["POST"] * 4 + ["GET", "PUT", "DELETE"])
    draws = st.tuples(places, methods, kinds, CHANGED, FIELDS, QUERIES, ACCEPTS, mostly("", st.sampled_from(others)))
    count = draw_attacks("thief", draws, attack)
    assert 0 < allowed < count, f"{allowed} of {count} were allowed"
