"""Test attacks of an editor, which has the ClusterRole `edit` in one namespace and no other permission."""

import json
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from controller.api.conditions import Reason
from controller.api.meta import MAX_SPEC
from controller.domain.decode_values import PFX
from tests.hostile.attack_harness import Attack, Attacker, AttackHarness, capture_output, make_paced_attack
from tests.hostile.drawing import draw_attacks
from tests.hostile.drawn_objects import draw_manifests
from tests.hostile.texts import HOSTILE
from tests.support.certificates import make_slow_pfx
from tests.support.cluster.harness import KIND_PATHS, eventually
from tests.support.cluster.hostile_inputs import akv_sync_with_notes, nest_managed_fields
from tests.support.cluster.namespace import Namespace
from tools.cli.common import printable
from tools.cli.migrate import migrate

DEEP = 9_900
SLOW_FILES = 120
EDITS_PER_SECOND = 30.0
SECONDS = 8.0
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
# A number that no status, event or log line may repeat in full.
DIGITS = "4" * 400


@pytest.fixture
def editor(harness: AttackHarness) -> Attacker:
    return harness.editor


def create_object(editor: Attacker, space: Namespace, kind: str, body: Any, *allowed: int) -> None:
    answer = editor.send("POST", KIND_PATHS[kind].format(space.name), body)
    assert answer.status in (allowed or (201,)), answer.text[:500]


# Attacks of the issue that led to this suite


def test_known_attacks_of_an_editor_harm_no_neighbour(harness: AttackHarness, editor: Attacker) -> None:
    space = harness.attacked
    foreign_calls = harness.count_foreign_calls()
    space.set_secret("a", "mine")
    create = partial(create_object, editor, space)

    def create_deeply_nested() -> None:
        for name, body in make_deep_objects(space).items():
            create(name, body)

    def create_many_bytes() -> None:
        body = akv_sync_with_notes(space, 1, 100_000)
        create("akvsync", body | {"metadata": {"name": "large"}})

    def create_object_above_the_crds_limit() -> None:
        create("akvsync", akv_sync_with_notes(space, 5, 100_000), 422)

    def rename_vault_many_times() -> None:
        create("secretproviderclass", space.provider_class("a", name="renamed"))
        create("secretsync", space.sync("renamed", {"k": "a"}, secretProviderClassName="renamed"))
        path = f"{KIND_PATHS['secretproviderclass'].format(space.name)}/renamed"
        for number in range(60):
            patch = {"spec": {"parameters": {"keyvaultName": f"v{number}"}}}
            assert editor.send("PATCH", path, patch, MERGE).status == 200

    def use_vault_without_a_role() -> None:
        names = ["a", *(f"n{number}" for number in range(39))]
        vault = harness.neighbours[0].vault
        create("secretproviderclass", space.provider_class(*names, name="victim", keyvaultName=vault))
        for name in names:
            create("secretsync", space.sync(f"of-victim-{name}", {"k": name}, secretProviderClassName="victim"))

    def use_identity_of_a_neighbour() -> None:
        victim = harness.neighbours[0]
        stolen = space.provider_class("a", name="stolen", keyvaultName=victim.vault, clientID=victim.client)
        create("secretproviderclass", stolen)
        create("secretsync", space.sync("stolen", {"k": "a"}, secretProviderClassName="stolen"))

    def sync_long_number() -> None:
        harness.emulator.set_secret(space.vault, "number", json.dumps({"auths": {}}).replace("{}", DIGITS))
        create("secretproviderclass", space.provider_class("number", name="number"))
        typed = {"type": "kubernetes.io/dockerconfigjson"}
        keys = {".dockerconfigjson": "number"}
        create("secretsync", space.sync("number", keys, secretProviderClassName="number", secretObject=typed))
        harness.wait_status("number")
        # The controller writes the log line and records the event after the status.
        events = eventually(lambda: space.list_events("number"), bool)
        places = (str(space.ready_condition("number")), harness.controller.log.read_text(), json.dumps(events))
        assert not [place[:200] for place in places if DIGITS[:50] in place]

    def create_hostile_texts() -> None:
        for number, text in enumerate(HOSTILE):
            parameters = (
                {"keyvaultName": text, "cloudName": text} if number % 2 else {"tenantID": text, "clientID": text}
            )
            objects = "array:\n" + yaml.safe_dump([f"objectName: {json.dumps(text)}\nobjectType: secret\n"])
            create(
                "secretproviderclass", space.provider_class(name=f"t{number}", objects=objects, **parameters), 201, 422
            )
            notes = {"annotations": {"note": text}, "labels": {"l": text}}
            wanted = {"secretProviderClassName": f"t{number}", "secretObject": notes}
            create("secretsync", space.sync(f"t{number}", {"k": text or "a"}, **wanted), 201, 422)

    harness.run_attacks(
        {
            # The first attack, because the namespace has a budget for events.
            "a number of 400 digits": sync_long_number,
            "deeply nested managed fields": create_deeply_nested,
            "an AKVSync that would generate many bytes": create_many_bytes,
            "an AKVSync that the CRD refuses": create_object_above_the_crds_limit,
            "keyvaultName changed 60 times": rename_vault_many_times,
            "a victim's vault without a role on it": use_vault_without_a_role,
            "a neighbour's identity": use_identity_of_a_neighbour,
            "hostile texts": create_hostile_texts,
        }
    )
    space.wait_secret("s", {"k": "mine"}, patience=60)
    for name in space.list_names("secretsync"):
        harness.wait_status(name)
    # This also proves that `count_foreign_calls` counts these calls.
    assert harness.count_foreign_calls() > foreign_calls
    assert "may not read" in space.wait_reason("of-victim-a", Reason.PROVIDER_ERROR)
    assert "federated credential" in space.wait_reason("stolen", Reason.PROVIDER_ERROR)
    assert_printable(harness.run_doctor(space.name))


def assert_printable(text: str) -> None:
    """Check that a text contains no control characters."""
    assert not {each for each in text if not printable.is_printable(each) and each != "\n"}


def make_deep_objects(space: Namespace) -> dict[str, str]:
    """Return a class, a SecretSync and an AKVSync with managed fields of the maximum depth of the API server."""
    manifests = {
        "secretproviderclass": space.provider_class("a"),
        "secretsync": space.sync("s", {"k": "a"}),
        "akvsync": space.akv_sync({"secretInAKV": "a"}),
    }
    return {kind: nest_managed_fields(manifest, DEEP) for kind, manifest in manifests.items()}


def test_frequent_edits_of_a_large_class_delay_no_neighbour(harness: AttackHarness, editor: Attacker) -> None:
    """Change a class of 128 KiB thirty times a second, so the controller has to parse it each time."""
    space = harness.attacked
    dense = "array: [" + "{a}," * ((MAX_SPEC - 2_000) // 4) + "a]"  # parsing takes 0.4 s of CPU, the longest known time
    create_object(editor, space, "secretproviderclass", space.provider_class(objects=dense))
    create_object(editor, space, "secretsync", space.sync("s", {"k": "a"}))
    path = f"{KIND_PATHS['secretproviderclass'].format(space.name)}/shop"

    def edit(number: int) -> None:
        patch = {"spec": {"parameters": {"objects": dense[:-2] + f"b{number}]"}}}
        assert (
            editor.send(
                "PATCH", path, patch, MERGE, accept="application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
            ).status
            == 200
        )

    harness.run_beside_neighbours(make_paced_attack(EDITS_PER_SECOND, SECONDS, edit))
    # The controller has parsed the class.
    assert f"it has {dense.count(',') + 1} items" in harness.wait_status("s")


def test_slow_pfx_files_delay_no_new_namespace(harness: AttackHarness, editor: Attacker) -> None:
    """Sync PFX files that each take an hour to open. New namespaces need name resolution, parsing and connections."""
    space = harness.attacked
    names = [f"slow-{number}" for number in range(SLOW_FILES)]
    for name in names:
        harness.emulator.set_secret(space.vault, name, make_slow_pfx(), content_type=PFX)

    def attack() -> None:
        create_object(editor, space, "secretproviderclass", space.provider_class(*names))
        for name in names:
            keys = {"tls.crt": f"{name}/tls.crt", "tls.key": f"{name}/tls.key"}
            create_object(
                editor, space, "secretsync", space.sync(name, keys, secretObject={"type": "kubernetes.io/tls"})
            )
        time.sleep(SECONDS)

    harness.run_beside_neighbours(attack)
    assert "its PFX takes too long to open" in harness.wait_status(names[0])


def test_secretsyncs_with_a_foreign_akvsync_as_owner_do_not_affect_it(harness: AttackHarness, editor: Attacker) -> None:
    """Create SecretSyncs with the UID of a neighbour's AKVSync. Its status and its number of parts must not change."""
    victim, space = harness.neighbours[0], harness.attacked
    victim.apply(victim.akv_sync({"secretInAKV": "a"}))

    def read_state() -> tuple[str, list[str]]:
        """Return the reason of Ready and the names of the parts."""
        found = victim.get("akvsync", "made")
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return "", []
        [reason] = [each["reason"] for each in status["conditions"] if each["type"] == "Ready"]
        return reason, [each["name"] for each in status.get("parts", [])]

    def edit(objects: list[dict[str, Any]]) -> None:
        patch = json.dumps({"spec": {"objects": objects}})
        victim.kubectl("patch", "akvsync", "made", "--type=merge", "--patch", patch)

    names = [f"child-{number}" for number in range(20)]
    try:
        eventually(read_state, lambda found: found == (Reason.UP_TO_DATE, ["a"]))
        uid = victim.get("akvsync", "made")["metadata"]["uid"]
        owner = {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "AKVSync", "name": "made", "uid": uid}
        for name in names:
            body = space.sync(name, {"k": "a"})
            # The finalizer keeps the object. The garbage collector deletes objects with an owner in another namespace.
            body["metadata"] |= {"ownerReferences": [owner], "finalizers": ["example.com/stay"]}
            create_object(editor, space, "secretsync", body)
        # An error in the victim's own AKVSync does not change its generated objects.
        edit(akv_sync_with_notes(victim, 1, 100_000)["spec"]["objects"])
        eventually(read_state, lambda found: found[0] == Reason.INPUT_INVALID)
        assert read_state() == (Reason.INPUT_INVALID, ["a"])
        edit([{"secretInAKV": "a"}])
        eventually(read_state, lambda found: found == (Reason.UP_TO_DATE, ["a"]))
        victim.wait_secret("a", read_expected_value(victim))
    finally:
        for name in names:
            path = f"{KIND_PATHS['secretsync'].format(space.name)}/{name}"
            editor.send("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
        victim.kubectl("delete", "akvsync", "made")
        eventually(lambda: victim.list_names("secretsync"), lambda names: names == ["s"])
        eventually(lambda: victim.list_names("secretproviderclass"), lambda names: names == ["shop"])
        eventually(lambda: "a" in victim.list_names("secret"), lambda found: not found)


def read_expected_value(victim: Namespace) -> dict[str, str]:
    """Return the expected value of the AKVSync's Secret: the newest vault value, which the neighbour's Secret has."""
    text = victim.secret_values("s")["k"].split("-", 2)[2]
    return {"v0": text}


# Operators' tools that read an editor's objects


def test_tools_report_on_deeply_nested_objects(harness: AttackHarness, editor: Attacker, tmp_path: Path) -> None:
    """Run doctor and migrate with objects of all three kinds that have the maximum depth of the API server."""
    space = harness.attacked
    space.set_secret("a", "mine")
    for kind, body in make_deep_objects(space).items():
        create_object(editor, space, kind, body)
    space.wait_secret("s", {"k": "mine"})
    where = ["--namespace", space.name, "--kubeconfig", str(harness.plane.kubeconfig)]
    codes: list[int] = []

    def run(program: Callable[[list[str]], int], *words: str) -> Attack:
        return lambda: codes.append(program([*words, *where]))

    outputs = {
        "doctor": harness.run_doctor(space.name),
        "csi": capture_output(run(migrate.main, "csi", "--cluster", "--output", str(tmp_path / "moved"))),
        "csi --akvsync": capture_output(run(migrate.main, "csi", "--cluster", "--akvsync")),
        "from-sse": capture_output(run(migrate.main, "from-sse")),
        "to-sse": capture_output(run(migrate.main, "to-sse")),
    }
    for name, text in outputs.items():
        assert "Traceback" not in text, name
        assert "Recursion" not in text, name
        assert f"{space.name}/s" in text or name.startswith("csi"), (name, text[:2000])
        assert_printable(text)
    assert max(codes) <= 1, codes


def test_doctor_does_not_contact_the_host_of_a_fake_release(harness: AttackHarness, editor: Attacker) -> None:
    """Create a Deployment and clouds that imitate those of the release and name the editor's host."""
    space = harness.attacked
    space.set_secret("a", "mine")
    create_object(editor, space, "secretproviderclass", space.provider_class("a"))
    create_object(editor, space, "secretsync", space.sync("s", {"k": "a"}))
    flags = ("--namespace", harness.installed.release, "--output", "json")
    held = json.loads(harness.plane.kubectl("get", "deployment", harness.installed.deployment, *flags))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        cloud = {"authority": f"https://{address}", "vaultUrl": f"https://{address}/{{vault}}"}
        meta = {"name": harness.installed.deployment, "labels": held["metadata"]["labels"]}
        files = {"name": f"{harness.installed.deployment}-files", "labels": held["metadata"]["labels"]}
        data = {"clouds.json": json.dumps({"emulator": cloud, "AzurePublicCloud": cloud})}
        create_object(editor, space, "deployment", {"metadata": meta, "spec": held["spec"]})
        path = f"/api/v1/namespaces/{space.name}/configmaps"
        try:
            assert editor.send("POST", path, {"metadata": files, "data": data}).status == 201
            text = harness.run_doctor(space.name, address)
            # The doctor has contacted a cloud, and it was the release's.
            assert "it accepts the token for identity" in text
            with pytest.raises(BlockingIOError):
                listening.accept()
        finally:
            editor.send("DELETE", f"{path}/{files['name']}")


def test_drawn_objects_of_an_editor_harm_no_neighbour(harness: AttackHarness, editor: Attacker) -> None:
    """Apply objects of all kinds, some deeply nested or with invalid bytes, and delete them at random times."""
    space = harness.attacked
    space.set_secret("a", "mine")
    accepted = 0

    def attack(drawn: tuple[tuple[str, dict[str, Any]], str, int]) -> None:
        nonlocal accepted
        (kind, body), action, depth = drawn
        path = KIND_PATHS[kind].format(space.name)
        name = body["metadata"]["name"]
        match action:
            case "deep":
                editor.send("DELETE", f"{path}/{name}")
                answer = editor.send("POST", path, nest_managed_fields(body, depth))
            case "broken":
                raw = json.dumps(body).encode()
                cut = depth % len(raw)
                answer = editor.send("POST", path, raw[:cut] + b"\xff\xc3(" + raw[cut:])
            case "twice":
                text = json.dumps(body)
                answer = editor.send("POST", path, text[:-1] + ',"spec":' + json.dumps(body["spec"]) + "}")
            case "delete":
                answer = editor.send("DELETE", f"{path}/{name}")
            case _:
                answer = editor.send("PATCH", f"{path}/{name}?fieldManager=e&force=true", body, APPLY)
        accepted += answer.status in (200, 201)

    actions = st.sampled_from(["apply"] * 6 + ["deep", "deep", "broken", "twice", "delete"])
    count = draw_attacks("editor", st.tuples(draw_manifests(space), actions, st.integers(1, DEEP)), attack)
    assert accepted > count // 10, f"the API server accepted {accepted} of {count}"
    # Each remaining SecretSync has a status, and none is an internal error.
    for name in space.list_names("secretsync"):
        harness.wait_status(name)
    assert_printable(harness.run_doctor(space.name))
