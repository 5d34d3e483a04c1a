"""Test attacks of a viewer, which has the ClusterRole `view` in a neighbour's namespace and reads log and metrics."""

import pytest
from hypothesis import strategies as st

from tests.hostile.attack_harness import Attacker, AttackHarness
from tests.hostile.drawing import draw_attacks
from tests.hostile.texts import mostly
from tests.support.cluster.harness import KIND_PATHS

ACCEPTS = [
    "application/json", "application/yaml", "application/vnd.kubernetes.protobuf",
    "application/json;as=Table;g=meta.k8s.io;v=v1", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
]  # fmt: skip
READABLE_KINDS = ("secretsync", "secretproviderclass", "akvsync", "events", "serviceaccount")


@pytest.fixture
def viewer(harness: AttackHarness) -> Attacker:
    return harness.viewer


def test_viewer_reads_no_value_and_writes_nothing(harness: AttackHarness, viewer: Attacker) -> None:
    """Read everything that a viewer may read. The closing check searches the responses for values."""
    victim = harness.neighbours[0].name

    def read_everything() -> None:
        for kind in READABLE_KINDS:
            for accept in ACCEPTS:
                answer = viewer.send("GET", KIND_PATHS[kind].format(victim), accept=accept)
                assert answer.status in (200, 406), answer.text[:300]
        for kind, name in (("secretsync", "s"), ("secretproviderclass", "shop")):
            assert viewer.send("GET", f"{KIND_PATHS[kind].format(victim)}/{name}").status == 200

    def read_secrets() -> None:
        for path in (f"{KIND_PATHS['secret'].format(victim)}/{name}" for name in ("", "s", "theirs")):
            assert viewer.send("GET", path.rstrip("/")).status == 403
        assert viewer.send("GET", f"{KIND_PATHS['secret'].format(victim)}?watch=true&timeoutSeconds=1").status == 403

    def write_objects() -> None:
        path = f"{KIND_PATHS['secretsync'].format(victim)}/s"
        for sub in ("", "/status"):
            patch = {"spec": {"secretProviderClassName": "x"}, "status": {"conditions": []}}
            assert viewer.send("PATCH", path + sub, patch, "application/merge-patch+json").status == 403
        assert viewer.send("DELETE", path).status == 403
        assert (
            viewer.send("POST", f"{KIND_PATHS['serviceaccount'].format(victim)}/shop/token", {"spec": {}}).status == 403
        )

    harness.run_attacks({"read everything": read_everything, "read Secrets": read_secrets, "write": write_objects})


def test_drawn_requests_of_a_viewer_read_no_secret_and_write_nothing(harness: AttackHarness, viewer: Attacker) -> None:
    victim = harness.neighbours[0].name
    names = st.sampled_from(["", "/s", "/shop", "/theirs", "/s/status", "/s/scale", "/shop/token", "/none"])
    queries = mostly(
        "",
        st.sampled_from(
            [
                "watch=true&timeoutSeconds=1",
                "limit=1",
                "fieldSelector=metadata.name%3Ds",
                "labelSelector=x",
                "resourceVersion=0&watch=true&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            ]
        ),
    )
    methods = st.sampled_from(["GET"] * 6 + ["PATCH", "POST", "DELETE", "PUT"])
    drawn = st.tuples(
        st.sampled_from(sorted(KIND_PATHS)),
        names,
        methods,
        queries,
        st.sampled_from(ACCEPTS),
        st.sampled_from([victim, "kube-system"]),
    )
    seen = 0

    def attack(chosen: tuple[str, ...]) -> None:
        nonlocal seen
        kind, name, method, query, accept, namespace = chosen
        body = None if method == "GET" else {"metadata": {"name": "x"}}
        answer = viewer.send(method, f"{KIND_PATHS[kind].format(namespace)}{name}?{query}", body, accept=accept)
        granted = answer.status in (200, 201)
        assert not granted or (method == "GET" and kind != "secret" and namespace == victim), (
            chosen,
            answer.text[:300],
        )
        seen += granted

    draw_attacks("viewer", drawn, attack)
    assert seen, "the viewer read nothing, so the closing check has nothing to search"
