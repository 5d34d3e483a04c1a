"""An editor: the ClusterRole `edit` in one namespace and nothing else."""

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
from controller.domain.decode_values import PFX
from controller.kube.informer import MAX_SPEC
from tests.hostile.arena import Arena, Attack, Attacker, paced, printed
from tests.hostile.drawing import draw_attacks
from tests.hostile.drawn_objects import manifests
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
# More digits of one number than any status, event or log line may repeat.
DIGITS = "4" * 400


@pytest.fixture
def editor(arena: Arena) -> Attacker:
    return arena.editor


def post(editor: Attacker, space: Namespace, kind: str, body: Any, *allowed: int) -> None:
    answer = editor.send("POST", KIND_PATHS[kind].format(space.name), body)
    assert answer.status in (allowed or (201,)), answer.text[:500]


# What the issue of this suite was about


def test_known_attacks(arena: Arena, editor: Attacker) -> None:
    space = arena.attacked
    space.set_secret("a", "mine")
    create = partial(post, editor, space)

    def deeply_nested() -> None:
        for name, body in deep_objects(space).items():
            create(name, body)

    def many_bytes() -> None:
        body = akv_sync_with_notes(space, 1, 100_000)
        create("akvsync", body | {"metadata": {"name": "large"}})

    def large_for_the_crd() -> None:
        create("akvsync", akv_sync_with_notes(space, 5, 100_000), 422)

    def renamed_vaults() -> None:
        create("secretproviderclass", space.provider_class("a", name="renamed"))
        create("secretsync", space.sync("renamed", {"k": "a"}, secretProviderClassName="renamed"))
        path = f"{KIND_PATHS['secretproviderclass'].format(space.name)}/renamed"
        for number in range(60):
            patch = {"spec": {"parameters": {"keyvaultName": f"v{number}"}}}
            assert editor.send("PATCH", path, patch, MERGE).status == 200

    def victims_vault() -> None:
        names = [f"n{number}" for number in range(40)]
        vault = arena.neighbours[0].vault
        create("secretproviderclass", space.provider_class(*names, name="victim", keyvaultName=vault))
        for name in names:
            create("secretsync", space.sync(name, {"k": name}, secretProviderClassName="victim"))

    def neighbours_identity() -> None:
        victim = arena.neighbours[0]
        stolen = space.provider_class("a", name="stolen", keyvaultName=victim.vault, clientID=victim.client)
        create("secretproviderclass", stolen)
        create("secretsync", space.sync("stolen", {"k": "a"}, secretProviderClassName="stolen"))

    def long_number() -> None:
        arena.emulator.set_secret(space.vault, "number", json.dumps({"auths": {}}).replace("{}", DIGITS))
        create("secretproviderclass", space.provider_class("number", name="number"))
        typed = {"type": "kubernetes.io/dockerconfigjson"}
        keys = {".dockerconfigjson": "number"}
        create("secretsync", space.sync("number", keys, secretProviderClassName="number", secretObject=typed))
        arena.wait_answer("number")
        places = (
            str(space.ready_condition("number")),
            arena.controller.log.read_text(),
            space.kubectl("get", "events", "-ojson"),
        )
        assert not [place[:200] for place in places if DIGITS[:50] in place]

    def hostile_texts() -> None:
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

    arena.carry_out(
        {
            "deeply nested managed fields": deeply_nested,
            "an AKVSync that would generate many bytes": many_bytes,
            "an AKVSync that the CRD refuses": large_for_the_crd,
            "keyvaultName, renamed again and again": renamed_vaults,
            "a victim's vault without a role on it": victims_vault,
            "a neighbour's identity": neighbours_identity,
            "a number of 400 digits": long_number,
            "hostile texts": hostile_texts,
        }
    )
    space.wait_secret("s", {"k": "mine"}, patience=60)
    assert_printable(arena.doctor(space.name))


def assert_printable(text: str) -> None:
    """Check that a terminal shows this text as it is."""
    assert not {each for each in text if not printable.is_printable(each) and each != "\n"}


def deep_objects(space: Namespace) -> dict[str, str]:
    """Return a class, a SecretSync and an AKVSync whose managed fields are nested as deep as the API server accepts."""
    manifests = {
        "secretproviderclass": space.provider_class("a"),
        "secretsync": space.sync("s", {"k": "a"}),
        "akvsync": space.akv_sync({"secretInAKV": "a"}),
    }
    return {kind: nest_managed_fields(manifest, DEEP) for kind, manifest in manifests.items()}


def test_class_of_128_kib_that_is_edited_thirty_times_a_second(arena: Arena, editor: Attacker) -> None:
    """Each edit has other contents, so no parsing can be saved; the neighbours and the Lease do not notice."""
    space = arena.attacked
    dense = "array: [" + "{a}," * ((MAX_SPEC - 2_000) // 4) + "a]"  # 0.4 s of CPU, more than any other text
    post(editor, space, "secretproviderclass", space.provider_class(objects=dense))
    post(editor, space, "secretsync", space.sync("s", {"k": "a"}))
    path = f"{KIND_PATHS['secretproviderclass'].format(space.name)}/shop"

    def edit(number: int) -> None:
        patch = {"spec": {"parameters": {"objects": dense[:-2] + f"b{number}]"}}}
        assert (
            editor.send(
                "PATCH", path, patch, MERGE, accept="application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
            ).status
            == 200
        )

    arena.endure(paced(EDITS_PER_SECOND, SECONDS, edit))


def test_slow_pfx_files_beside_a_new_vault(arena: Arena, editor: Attacker) -> None:
    """Each file takes an hour to open; new namespaces need name resolution, parsing and connections meanwhile."""
    space = arena.attacked
    names = [f"slow-{number}" for number in range(SLOW_FILES)]
    for name in names:
        arena.emulator.set_secret(space.vault, name, make_slow_pfx(), content_type=PFX)

    def attack() -> None:
        post(editor, space, "secretproviderclass", space.provider_class(*names))
        for name in names:
            keys = {"tls.crt": f"{name}/tls.crt", "tls.key": f"{name}/tls.key"}
            post(editor, space, "secretsync", space.sync(name, keys, secretObject={"type": "kubernetes.io/tls"}))
        time.sleep(SECONDS)

    arena.endure(attack)
    arena.wait_answer(names[0])


def test_uid_of_a_neighbours_akvsync_as_owner(arena: Arena, editor: Attacker) -> None:
    """SecretSyncs of another namespace are no part of the AKVSync: neither its status nor its count changes."""
    victim, space = arena.neighbours[0], arena.attacked
    victim.apply(victim.akv_sync({"secretInAKV": "a"}))

    def state() -> tuple[str, list[str]]:
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
        eventually(state, lambda found: found == (Reason.UP_TO_DATE, ["a"]))
        uid = victim.get("akvsync", "made")["metadata"]["uid"]
        owner = {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "AKVSync", "name": "made", "uid": uid}
        for name in names:
            body = space.sync(name, {"k": "a"})
            # The garbage collector deletes what has an owner elsewhere; with a finalizer it stays.
            body["metadata"] |= {"ownerReferences": [owner], "finalizers": ["example.com/stay"]}
            post(editor, space, "secretsync", body)
        # A mistake of the victim's own changes nothing of what its AKVSync has made.
        edit(akv_sync_with_notes(victim, 1, 100_000)["spec"]["objects"])
        eventually(state, lambda found: found[0] == Reason.INPUT_INVALID)
        assert state() == (Reason.INPUT_INVALID, ["a"])
        edit([{"secretInAKV": "a"}])
        eventually(state, lambda found: found == (Reason.UP_TO_DATE, ["a"]))
        victim.wait_secret("a", victim_value(arena, victim))
    finally:
        for name in names:
            path = f"{KIND_PATHS['secretsync'].format(space.name)}/{name}"
            editor.send("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
        victim.kubectl("delete", "akvsync", "made")
        eventually(lambda: victim.list_names("secretsync"), lambda names: names == ["s"])
        eventually(lambda: victim.list_names("secretproviderclass"), lambda names: names == ["shop"])
        eventually(lambda: "a" in victim.list_names("secret"), lambda found: not found)


def victim_value(arena: Arena, victim: Namespace) -> dict[str, str]:
    """Return what the AKVSync's Secret has: the newest value of the vault, as the neighbour's own Secret has it."""
    text = victim.secret_values("s")["k"].split("-", 2)[2]
    return {"v0": text}


# The operators' tools over an editor's objects


def test_tools_over_deeply_nested_objects(arena: Arena, editor: Attacker, tmp_path: Path) -> None:
    """doctor and migrate read all three kinds, nested as deep as the API server accepts, and answer in lines."""
    space = arena.attacked
    space.set_secret("a", "mine")
    for kind, body in deep_objects(space).items():
        post(editor, space, kind, body)
    space.wait_secret("s", {"k": "mine"})
    where = ["--namespace", space.name, "--kubeconfig", str(arena.plane.kubeconfig)]
    codes: list[int] = []

    def run(program: Callable[[list[str]], int], *words: str) -> Attack:
        return lambda: codes.append(program([*words, *where]))

    shown = {
        "doctor": arena.doctor(space.name),
        "csi": printed(run(migrate.main, "csi", "--cluster", "--output", str(tmp_path / "moved"))),
        "csi --akvsync": printed(run(migrate.main, "csi", "--cluster", "--akvsync")),
        "from-sse": printed(run(migrate.main, "from-sse")),
        "to-sse": printed(run(migrate.main, "to-sse")),
    }
    for name, text in shown.items():
        assert "Traceback" not in text, name
        assert "Recursion" not in text, name
        assert f"{space.name}/s" in text or name.startswith("csi"), (name, text[:2000])
        assert_printable(text)
    assert max(codes) <= 1, codes


def test_fake_release_gets_no_connection(arena: Arena, editor: Attacker) -> None:
    """An editor's Deployment and clouds that imitate the release's do not direct doctor to the editor's host."""
    space = arena.attacked
    at = ("--namespace", arena.installed.release, "--output", "json")
    held = json.loads(arena.plane.kubectl("get", "deployment", arena.installed.deployment, *at))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        cloud = {"authority": f"https://{address}", "vaultUrl": f"https://{address}/{{vault}}"}
        meta = {"name": arena.installed.deployment, "labels": held["metadata"]["labels"]}
        files = {"name": f"{arena.installed.deployment}-files", "labels": held["metadata"]["labels"]}
        data = {"clouds.json": json.dumps({"emulator": cloud, "AzurePublicCloud": cloud})}
        post(editor, space, "deployment", {"metadata": meta, "spec": held["spec"]})
        path = f"/api/v1/namespaces/{space.name}/configmaps"
        try:
            assert editor.send("POST", path, {"metadata": files, "data": data}).status == 201
            arena.doctor(space.name)
            with pytest.raises(BlockingIOError):
                listening.accept()
        finally:
            editor.send("DELETE", f"{path}/{files['name']}")


def test_drawn_objects(arena: Arena, editor: Attacker) -> None:
    """Objects of all kinds, as JSON, as bytes that are none, deeply nested, and deleted again at any moment."""
    space = arena.attacked
    space.set_secret("a", "mine")
    accepted = 0

    def attack(drawn: tuple[tuple[str, dict[str, Any]], str, int]) -> None:
        nonlocal accepted
        (kind, body), way, depth = drawn
        path = KIND_PATHS[kind].format(space.name)
        name = body["metadata"]["name"]
        match way:
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

    ways = st.sampled_from(["apply"] * 6 + ["deep", "deep", "broken", "twice", "delete"])
    count = draw_attacks("editor", st.tuples(manifests(space), ways, st.integers(1, DEEP)), attack)
    assert accepted > count // 10, f"the API server accepted {accepted} of {count}"
    # Each SecretSync that is there is answered, and by no failure of the controller's own.
    for name in space.list_names("secretsync"):
        arena.wait_answer(name)
    assert_printable(arena.doctor(space.name))
