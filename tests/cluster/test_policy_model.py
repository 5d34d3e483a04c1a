"""Compare the policies' decisions about random requests of a stolen token with a model in Python.

The seed is fixed, so a failure can be repeated. Set POLICY_SEED to draw other requests. Every request is a dry run, so
an allowed one changes nothing.
"""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.support.cluster.harness import MANAGED_LABEL, SINCE_POLICIES
from tests.support.cluster.token_thief import (
    MERGE,
    SECRETS,
    STRATEGIC,
    TARGET_NAMESPACE,
    VALUE,
    TargetNamespace,
    ThiefResponse,
    TokenThief,
    make_owner,
    make_secret,
)

pytestmark = pytest.mark.since(*SINCE_POLICIES)
SEED = int(os.environ.get("POLICY_SEED", "20261128"))
EXAMPLES = 100
UID = "11111111-1111-1111-1111-111111111111"
TOOLS = ("helm.sh", "argoproj.io", "toolkit.fluxcd.io", "applyset.kubernetes.io", "kubectl.kubernetes.io")
HOSTS = st.sampled_from(
    [*TOOLS, "example.com", "helm.sh.example.com", "xargoproj.io", "meta.helm.sh", "a.b.argoproj.io"]
)
KEYS = st.one_of(
    st.builds("{}/{}".format, HOSTS, st.sampled_from(["a", "managed-by", "instance"])),
    st.sampled_from(["owner", "app.kubernetes.io/managed-by", "app.kubernetes.io/name", "app", "status", "version"]),
)
ENTRIES = st.dictionaries(KEYS, st.sampled_from(["helm", "Helm", "x", ""]), max_size=2)
REFERENCES = st.fixed_dictionaries(
    {
        "apiVersion": st.sampled_from(["secret-sync.x-k8s.io/v1alpha1"] * 6 + ["secret-sync.x-k8s.io/v9", "v1"]),
        "kind": st.sampled_from(["SecretSync"] * 6 + ["AKVSync", "ConfigMap"]),
        "name": st.sampled_from(["drawn"] * 6 + ["other"]),
        "uid": st.just(UID),
    },
    optional={"controller": st.booleans()},
)
# The UIDs differ, because the API server itself refuses or merges two references to one UID.
OWNERS = st.lists(REFERENCES, min_size=1, max_size=2).map(
    lambda found: [each | {"uid": f"{number}{UID[1:]}"} for number, each in enumerate(found, 1)]
)
METADATA = st.fixed_dictionaries(
    {
        "labels": ENTRIES.map(lambda entries: entries | MANAGED_LABEL),
        "ownerReferences": OWNERS,
    },
    optional={
        "annotations": ENTRIES,
        "finalizers": st.lists(st.just("example.com/stay"), max_size=1),
        "generateName": st.just("drawn-"),
    },
)
BODIES = st.fixed_dictionaries(
    {"metadata": METADATA},
    optional={
        "immutable": st.booleans(),
        "type": st.sampled_from(
            ["Opaque"] * 3 + ["helm.sh/release.v1", "example.com/x", "akv-secret-store/probe", "OPAQUE"]
        ),
        "stringData": st.just({"more": "text"}),
    },
)


def is_reserved(labels: dict[str, str], annotations: dict[str, str]) -> bool:
    """Return whether one of these keys belongs to another tool. docs/secretsyncs.md lists these keys."""
    for key in (*labels, *annotations):
        domain, slash, _ = key.partition("/")
        if slash and any(domain == tool or domain.endswith(f".{tool}") for tool in TOOLS):
            return True
        if key == "app.kubernetes.io/managed-by":
            return True
    return labels.get("owner") == "helm"


def is_creatable(body: dict[str, Any], *, generates: bool = False) -> bool:
    """Return whether the policies allow the controller to create this Secret."""
    metadata = body["metadata"]
    return (
        metadata["ownerReferences"] == [make_owner(UID, "drawn")]
        and not metadata.get("finalizers")
        and not generates
        and not body.get("immutable")
        and body.get("type", "Opaque") == "Opaque"
        and not is_reserved(metadata["labels"], metadata.get("annotations", {}))
    )


def assert_verdict(answer: ThiefResponse, allowed: bool, body: Any) -> None:
    assert answer.status in ({200, 201} if allowed else {403, 409, 422}), (allowed, body, answer.text)
    assert allowed or VALUE not in answer.text


def with_examples(test: Any) -> Any:
    """Configure a property test with `EXAMPLES` examples and the seed."""
    limits = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    return seed(SEED)(limits(test))


def test_policies_judge_random_creations_as_the_model_does(thief: TokenThief, record_property: Any) -> None:
    record_property("seed", SEED)
    seen = {True: 0, False: 0}

    @with_examples
    @given(BODIES, st.sampled_from(["POST", "apply"]))
    def run(drawn: dict[str, Any], way: str) -> None:
        body = make_secret("drawn", [], **drawn)
        body["metadata"]["namespace"] = TARGET_NAMESPACE
        allowed = is_creatable(drawn, generates="generateName" in drawn["metadata"])
        if way == "POST":
            answer = thief.send("POST", f"{SECRETS}?dryRun=All", body)
        else:
            query = "fieldManager=x&force=true&dryRun=All"
            answer = thief.send("PATCH", f"{SECRETS}/drawn?{query}", body, "application/apply-patch+yaml")
        assert_verdict(answer, allowed, body)
        seen[allowed] += 1

    run()
    assert min(seen.values()) > EXAMPLES // 20, seen


def test_policies_judge_random_patches_as_the_model_does(thief: TokenThief, shop: TargetNamespace) -> None:
    """Patch a Secret of the controller to which a user has added a label of Helm and a finalizer."""
    uid = shop.create_sync("changing")
    reference = make_owner(uid, "changing")
    kept = {"meta.helm.sh/x": "kept"}
    before: dict[str, Any] = {
        "labels": {**MANAGED_LABEL, **kept},
        "annotations": kept,
        "finalizers": ["example.com/theirs"],
    }
    shop.create(make_secret("changing", [reference], metadata=before))
    entries = st.dictionaries(
        st.one_of(KEYS, st.just("meta.helm.sh/x")), st.sampled_from(["helm", "x", "kept", None]), max_size=2
    )
    owners = [
        None,
        [],
        [reference],
        [reference | {"uid": UID}],
        [reference | {"apiVersion": "secret-sync.x-k8s.io/v9"}],
    ]
    metadata = st.fixed_dictionaries(
        {},
        optional={
            "labels": entries,
            "annotations": entries,
            "ownerReferences": st.sampled_from([*owners, [reference, make_owner(UID, "second")]]),
            "finalizers": st.sampled_from(
                [None, [], ["example.com/theirs"], ["example.com/theirs", "example.com/stay"]]
            ),
        },
    )
    bodies = st.fixed_dictionaries({"metadata": metadata}, optional={"immutable": st.sampled_from([None, False, True])})
    seen = {True: 0, False: 0}

    def reserved_changes(field: str, patch: dict[str, Any]) -> bool:
        for key, value in (patch.get(field) or {}).items():
            old = before[field].get(key)
            after = {} if value is None else {key: value}
            now = {} if old is None else {key: old}
            as_labels = field == "labels"
            either = [is_reserved(each, {}) if as_labels else is_reserved({}, each) for each in (after, now)]
            if any(either) and value != old:
                return True
        return False

    @with_examples
    @given(bodies, st.sampled_from([MERGE, STRATEGIC]))
    def run(body: dict[str, Any], kind: str) -> None:
        patch = body["metadata"]
        if kind != MERGE and ("ownerReferences" in patch or "finalizers" in patch):
            kind = MERGE  # a strategic merge patch would merge these lists
        allowed = (
            not reserved_changes("labels", patch)
            and not reserved_changes("annotations", patch)
            and patch.get("ownerReferences", [reference]) == [reference]
            and patch.get("finalizers", ["example.com/theirs"]) == ["example.com/theirs"]
            and not body.get("immutable")
        )
        assert_verdict(thief.send("PATCH", f"{SECRETS}/changing?dryRun=All", body, kind), allowed, body)
        seen[allowed] += 1

    try:
        run()
    finally:
        shop.plane.kubectl(
            "patch",
            "secret",
            "changing",
            "-n",
            TARGET_NAMESPACE,
            "--type=merge",
            "-p",
            '{"metadata":{"finalizers":null}}',
        )
    assert min(seen.values()) > EXAMPLES // 20, seen


def test_policies_judge_random_events_as_the_model_does(thief: TokenThief) -> None:
    path = f"/apis/events.k8s.io/v1/namespaces/{TARGET_NAMESPACE}/events"
    regarding = st.fixed_dictionaries(
        {
            "apiVersion": st.sampled_from(["secret-sync.x-k8s.io/v1alpha1"] * 5 + ["v1"]),
            "kind": st.sampled_from(["SecretSync"] * 5 + ["Pod", "AKVSync"]),
            "name": st.just("x"),
            "namespace": st.sampled_from([TARGET_NAMESPACE] * 5 + ["kube-system"]),
        }
    )
    events = st.fixed_dictionaries(
        {
            "reportingController": st.sampled_from(["secret-sync.x-k8s.io/akv-secret-store"] * 5 + ["kubelet"]),
            "action": st.sampled_from(["Sync"] * 5 + ["Kill"]),
            "reason": st.sampled_from(["ProviderError", "NeedsAttention", "PartialSync"] * 3 + ["Killing"]),
            "type": st.sampled_from(["Normal", "Warning"] * 3 + ["Error"]),
            "note": st.sampled_from(["", "x", "x" * 1024]),
            "regarding": regarding,
        }
    )
    related = st.one_of(*[st.just({})] * 5, st.fixed_dictionaries({"related": regarding}))
    seen = {True: 0, False: 0}

    @with_examples
    @given(events, related, st.one_of(st.just({}), ENTRIES))
    def run(event: dict[str, Any], related: dict[str, Any], labels: dict[str, str]) -> None:
        drawn = event | related
        metadata = {"name": "drawn.1", "namespace": TARGET_NAMESPACE} | ({"labels": labels} if labels else {})
        fixed = {"eventTime": "2026-01-01T00:00:00.000000Z", "reportingInstance": "pod", "metadata": metadata}
        body = {"apiVersion": "events.k8s.io/v1", "kind": "Event", **fixed, **drawn}
        about = drawn["regarding"]
        allowed = (
            drawn["reportingController"] == "secret-sync.x-k8s.io/akv-secret-store"
            and drawn["action"] == "Sync"
            and drawn["reason"] != "Killing"
            and drawn["type"] != "Error"
            and about["kind"] != "Pod"
            and about["namespace"] == TARGET_NAMESPACE
            and about["apiVersion"] == "secret-sync.x-k8s.io/v1alpha1"
            and "related" not in drawn
            and not labels
        )
        assert_verdict(thief.send("POST", f"{path}?dryRun=All", body), allowed, body)
        seen[allowed] += 1

    run()
    assert min(seen.values()) > EXAMPLES // 20, seen
