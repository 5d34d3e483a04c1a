"""Test attacks of a thief, which has the controller's token and the permissions of the chart's Roles and policies."""

import itertools
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS
from tests.hostile.attack_harness import KUBERNETES_NAMESPACES, Attacker, AttackHarness
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
# No permission, or refused by a policy. Any other status means that the API server did not ask these two.
REFUSED = {403, 422}
_numbers = itertools.count(1)


@pytest.fixture
def thief(harness: AttackHarness) -> Attacker:
    return harness.thief


@pytest.fixture(scope="module")
def shop(harness: AttackHarness) -> Iterator[TargetNamespace]:
    """Provide a namespace with SecretSyncs of another controller. No controller corrects the thief's writes there."""
    create_object(harness.plane, "namespaces", TARGET_NAMESPACE)
    found = TargetNamespace(harness.plane)
    yield found
    harness.plane.request("DELETE", f"/api/v1/namespaces/{TARGET_NAMESPACE}")


def get_secrets_path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/secrets" + (f"/{name}" if name else "")


def create_owned_secret(thief: Attacker, shop: TargetNamespace) -> str:
    """Create a Secret that the thief may write, as the controller does. Return its name."""
    name = f"owned-{next(_numbers)}"
    answer = thief.send(
        "POST", get_secrets_path(TARGET_NAMESPACE), make_secret(name, [make_owner(shop.create_sync(name), name)])
    )
    assert answer.status == 201, answer.text
    return name


FORBIDDEN_CHANGES: dict[str, dict[str, Any]] = {
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


def test_known_attacks_of_a_thief_are_refused(harness: AttackHarness, thief: Attacker, shop: TargetNamespace) -> None:
    victim, home = harness.neighbours[0].name, harness.installed.release

    def assert_refused(method: str, path: str, body: Any = None, kind: str = "application/json") -> None:
        answer = thief.send(method, path, body, kind)
        assert answer.status in REFUSED, f"{method} {path}: {answer.status} {answer.text[:300]}"

    def try_change(change: dict[str, Any]) -> None:
        name = f"forbidden-{next(_numbers)}"
        body = make_secret(name, [make_owner(UID, name)]) | {
            key: value for key, value in change.items() if key != "metadata"
        }
        body["metadata"] |= change.get("metadata", {})
        assert_refused("POST", get_secrets_path(TARGET_NAMESPACE), body)
        assert_refused("PATCH", f"{get_secrets_path(TARGET_NAMESPACE, name)}?fieldManager=x&force=true", body, APPLY)
        assert_refused("PATCH", get_secrets_path(TARGET_NAMESPACE, create_owned_secret(thief, shop)), change, MERGE)

    def create_secrets_for_other_software() -> None:
        for namespace in KUBERNETES_NAMESPACES:
            assert_refused("POST", get_secrets_path(namespace), make_secret("x", [make_owner(UID, "x")]))
        for name in ("sh.helm.release.v1.x.v1", "bootstrap-token-abcdef"):
            assert_refused("POST", get_secrets_path(TARGET_NAMESPACE), make_secret(name, [make_owner(UID, name)]))

    def access_foreign_secrets() -> None:
        for namespace in (victim, "kube-system"):
            path = get_secrets_path(namespace, "theirs")
            for kind in (MERGE, STRATEGIC, "application/json-patch+json"):
                assert_refused("PATCH", path, [] if "json-patch" in kind else {}, kind)
            assert_refused("PATCH", f"{path}?fieldManager=x&force=true&dryRun=All", make_secret("theirs", []), APPLY)
            for verb in ("GET", "DELETE", "PUT"):
                assert_refused(verb, path, make_secret("theirs", []) if verb == "PUT" else None)
            for query in ("", "?watch=true&timeoutSeconds=1", "?fieldSelector=metadata.name%3Dtheirs"):
                assert_refused("GET", get_secrets_path(namespace) + query)
        assert_refused("GET", "/api/v1/secrets")

    def change_objects_of_users() -> None:
        for kind, name in (("secretsyncs", "s"), ("akvsyncs", "none")):
            path = f"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{victim}/{kind}/{name}"
            assert_refused("PATCH", path, {"spec": {"secretProviderClassName": "x"}}, MERGE)
            assert_refused("PATCH", path, {"metadata": {"finalizers": ["example.com/stay"]}}, MERGE)
            assert_refused("DELETE", path)
        path = f"/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{victim}/secretproviderclasses/shop"
        assert_refused("PATCH", path, {"spec": {"parameters": {"keyvaultName": "x"}}}, MERGE)
        assert_refused("DELETE", path)

    def request_tokens() -> None:
        def request_token(account: str, namespace: str = victim, **spec: Any) -> None:
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
            assert_refused(
                "POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            )

        request_token("shop", audiences=["https://kubernetes.default.svc"])
        request_token("shop", audiences=[])
        request_token("shop", audiences=[TOKEN_AUDIENCE, harness.plane.issuer], expirationSeconds=TOKEN_SECONDS)
        request_token("shop", audiences=[TOKEN_AUDIENCE], expirationSeconds=86_400)
        request_token("default", "kube-system", audiences=[TOKEN_AUDIENCE], expirationSeconds=TOKEN_SECONDS)

    def write_leases_and_events() -> None:
        leases = "/apis/coordination.k8s.io/v1/namespaces"
        assert_refused("POST", f"{leases}/{home}/leases", {"metadata": {"name": "another"}})
        assert_refused(
            "POST", f"{leases}/kube-system/leases", {"metadata": {"name": harness.controller.env["LEASE_NAME"]}}
        )
        assert_refused("PATCH", f"{leases}/kube-system/leases/kube-controller-manager", {}, MERGE)
        for change in ({"reportingController": "kubelet"}, {"regarding": {"kind": "Pod", "name": "x"}}):
            assert_refused("POST", f"/apis/events.k8s.io/v1/namespaces/{victim}/events", make_event(victim, **change))

    def access_other_resources() -> None:
        for path in (
            f"/api/v1/namespaces/{home}/configmaps", "/api/v1/nodes", "/api/v1/namespaces",
            f"/apis/apps/v1/namespaces/{home}/deployments", "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        ):  # fmt: skip
            assert_refused("GET", path)
            assert_refused("POST", path, {"metadata": {"name": "x"}})

    attacks = {name: (lambda change=change: try_change(change)) for name, change in FORBIDDEN_CHANGES.items()}
    others = (
        create_secrets_for_other_software,
        access_foreign_secrets,
        change_objects_of_users,
        request_tokens,
        write_leases_and_events,
        access_other_resources,
    )
    harness.run_attacks({**attacks, **{each.__name__: each for each in others}})


# The drawn requests are real writes, so the closing check finds every object that a policy allows. Each field has the
# right type, because the API server's error about a wrong type quotes the whole Secret before any policy (SECURITY.md,
# "What is not promised").

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


def test_drawn_requests_of_a_thief_change_nothing_forbidden(
    harness: AttackHarness, thief: Attacker, shop: TargetNamespace
) -> None:
    """Send real requests for Secrets, tokens, Leases, events and other resources. The policies allow some of them."""
    owned_name = create_owned_secret(thief, shop)
    uid = json.loads(harness.plane.request("GET", get_secrets_path(TARGET_NAMESPACE, owned_name))[1])["metadata"][
        "ownerReferences"
    ][0]["uid"]
    victims = [(each.name, name) for each in harness.neighbours for name in ("theirs",)] + [("kube-system", "theirs")]
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
        f"/apis/coordination.k8s.io/v1/namespaces/{harness.installed.release}/leases",
        f"/apis/events.k8s.io/v1/namespaces/{TARGET_NAMESPACE}/events",
        f"/api/v1/namespaces/{harness.neighbours[0].name}/serviceaccounts/shop/token",
        f"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{harness.neighbours[0].name}/secretsyncs",
        f"/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{harness.neighbours[0].name}/secretproviderclasses/shop",
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
            answer = thief.send(
                method, f"{get_secrets_path(namespace, quote(name))}?{query}{suffix}", body, kind, accept
            )
        elif method == "POST":
            answer = thief.send(method, f"{get_secrets_path(namespace)}?{query}", body, accept=accept)
        else:
            answer = thief.send(method, f"{get_secrets_path(namespace, name)}?{query}", accept=accept)
            assert answer.status in {403, 405, 406}, answer.text[:300]
        allowed += answer.status in (200, 201)

    methods = st.sampled_from(["PATCH"] * 5 + ["POST"] * 4 + ["GET", "PUT", "DELETE"])
    draws = st.tuples(places, methods, kinds, CHANGED, FIELDS, QUERIES, ACCEPTS, mostly("", st.sampled_from(others)))
    count = draw_attacks("thief", draws, attack)
    assert 0 < allowed < count, f"{allowed} of {count} were allowed"
