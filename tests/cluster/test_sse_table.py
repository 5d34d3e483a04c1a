"""Every manifest and every row of what SSE understands (tests/cluster/sse.py), played on the real API server.

All classes and SecretSyncs of the table are applied at once, in one namespace; then each case is looked at.
"""

import ast
import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.secretsync import TYPE_STAYS
from controller.schedule import parse_time
from controller.settings import Settings
from tests.cluster.sse import (
    BOUNDS,
    CASES,
    ELSEWHERE,
    ISSUER,
    MISTAKES,
    NEW,
    OLD,
    PFX,
    ROWS,
    TODAY,
    TOKENS,
    Bound,
    Case,
    Mistake,
    chain,
    traditional,
    whole,
)
from tests.cluster.world import TENANT, Installed, Namespace, at_work, eventually, release, value
from tests.unit.issuing import as_pem, issue
from tools import guide, helm
from tools.local_cluster.errors import ClusterError
from tools.workload import Workload

TESTS = Path(__file__).resolve().parents[1]
LABEL = {"secrets-store.sync.x-k8s.io": ""}
SYNCED = (Reason.WRITTEN, Reason.UP_TO_DATE)
Test = TypeVar("Test", bound=Callable[..., None])
held: set[str] = set(ELSEWHERE)


def holds(*rows: str) -> Callable[[Test], Test]:
    """Marks a test as the case of these rows."""
    held.update(rows)
    return lambda test: test


# --- No row without a case -------------------------------------------------------------------------------------------


def test_every_row_has_a_case() -> None:
    rows = {f"{part}: {' '.join(row.split())}" for part, text in ROWS.items() for row in text.split(",")}
    shown = {row for case in CASES for row in case.rows}
    shown |= {bound.row for bound in BOUNDS} | {wrong.row for wrong in MISTAKES}
    assert sorted(rows - shown - held) == []
    assert sorted((shown | held) - rows) == []


@pytest.mark.parametrize("named", sorted(set(ELSEWHERE.values())))
def test_what_is_played_elsewhere_is_there(named: str) -> None:
    path, _, name = named.partition("::")
    tree = ast.parse((TESTS / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


# --- The table -------------------------------------------------------------------------------------------------------


class Played(NamedTuple):
    """What became of the whole table, by names."""

    space: Namespace
    syncs: Mapping[str, dict[str, Any]]
    secrets: Mapping[str, dict[str, Any]]

    def ready(self, name: str) -> tuple[str, str]:
        """Reason and message; empty where nobody has looked at the SecretSync."""
        conditions = self.syncs[name].get("status", {}).get("conditions", [])
        return next(((item["reason"], item["message"]) for item in conditions if item["type"] == "Ready"), ("", ""))


def slug(case: Case) -> str:
    """A case's name as its objects have it."""
    return re.sub("[^a-z0-9]+", "-", case.name.lower())


def reasons(case: Case) -> tuple[str, ...]:
    """What the SecretSync may say in the end."""
    if case.reason:
        return (case.reason,)
    return SYNCED if case.secret else ("",)


@pytest.fixture(scope="module")
def shop(installed: Installed, controller: Workload) -> Iterator[Namespace]:
    """The table's namespace."""
    space = Namespace(installed)
    yield space
    space.remove()


def stock(space: Namespace) -> str:
    """Puts into the vault what the table reads; returns the id of the token's first version."""
    emulator, ids = space.installed.emulator, []
    emulator.assign_role(space.client, space.vault, "Key Vault Reader")
    for second, (token, web) in enumerate(zip(TOKENS, (OLD, NEW), strict=True)):
        emulator.set_clock(-10 + second)  # Key Vault's times have a grain of one second
        ids.append(emulator.set_secret(space.vault, "token", token))
        emulator.import_certificate(space.vault, "web", as_pem(web, ISSUER))
    emulator.set_clock(0)
    emulator.import_certificate(space.vault, "shop", base64.b64decode(PFX))
    for name, text in (("as-hex", "00ff41"), ("as-base64", "AP9B"), ("registry", "{}")):
        emulator.set_secret(space.vault, name, text)
    return ids[0]


def merged(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """As `kubectl patch --type=merge` does: None takes a field away."""
    after = dict(before)
    for key, item in change.items():
        after[key] = merged(after.get(key, {}), item) if isinstance(item, Mapping) else item
    return {key: item for key, item in after.items() if item is not None}


@pytest.fixture(scope="module")
def played(shop: Namespace) -> Played:
    first = stock(shop)
    fill = {"client": shop.client, "tenant": TENANT, "vault": shop.vault}
    objects: list[dict[str, Any]] = []
    for case in CASES:
        items = (item.replace("{first}", first).replace("\n", "\n    ") for item in case.objects)
        text = "array:\n" + "".join(f"  - |\n    {item}\n" for item in items)
        parameters = {key: given.format(**fill) for key, given in case.parameters.items()}
        provider_class = shop.provider_class(name=slug(case), objects=text, **parameters)
        sync = shop.sync(slug(case), case.data, secretProviderClassName=slug(case))
        more = {**case.spec, "secretObject": case.secret_object}
        objects += [merged(provider_class, case.provider_class), merged(sync, {"spec": more})]
    shop.apply(*objects)

    def look() -> Played:
        found = json.loads(shop.kubectl("get", "secretsyncs,secrets", "--output", "json"))["items"]
        by_kind = {
            kind: {item["metadata"]["name"]: item for item in found if item["kind"] == kind}
            for kind in ("SecretSync", "Secret")
        }
        return Played(shop, by_kind["SecretSync"], by_kind["Secret"])

    # A SecretSync may be seen before its class. Whatever is not as it should be in the end is for its case to tell.
    with contextlib.suppress(AssertionError):
        eventually(look, lambda found: all(found.ready(slug(case))[0] in reasons(case) for case in CASES))
    return look()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_class_and_a_secretsync(case: Case, played: Played) -> None:
    name = slug(case)
    reason, message = played.ready(name)
    assert reason in reasons(case), message
    assert case.said.format(vault=played.space.vault) in message
    if not case.secret:
        assert name not in played.secrets
        return
    secret = played.secrets[name]
    found = {key: base64.b64decode(text) for key, text in secret["data"].items()}
    assert found == {key: text.encode() if isinstance(text, str) else text for key, text in case.secret.items()}
    assert secret["type"] == (case.secret_object.get("type") or "Opaque")
    assert secret["metadata"]["labels"] == LABEL | case.secret_object.get("labels", {})
    assert secret["metadata"].get("annotations", {}) == case.secret_object.get("annotations", {})


@holds("life: the Secret's name", "status: syncHash", "status: lastSuccessfulSyncTime", "status: conditions")
def test_a_secret_and_a_status_as_sse_leaves_them(played: Played) -> None:
    sync, secret = played.syncs["v1"], played.secrets["v1"]
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("SecretSync", "v1", sync["metadata"]["uid"])
    assert sync["spec"]["secretSyncControllerName"] == ""
    status = sync["status"]
    assert status["syncHash"]
    assert (moment := parse_time(status["lastSuccessfulSyncTime"]))
    assert abs((moment - TODAY).total_seconds()) < 3600
    assert {item["type"]: item["status"] for item in status["conditions"]} == {
        "Ready": "True",
        "SecretCreated": "True",
        "SecretUpdated": "True",
    }
    # What SSE ignores is not made either.
    assert "not-made" not in played.secrets


@holds("reason: PartialSync")
def test_a_partial_sync_is_told_item_by_item(played: Played) -> None:
    items = json.loads(played.ready("an-object-that-is-not-there")[1])
    assert [(item["targetKey"], item["sourcePath"], item["status"]) for item in items] == [
        ("n", "none", "failed"),
        ("k", "token", "synced"),
    ]


# --- What the API server takes and refuses ---------------------------------------------------------------------------


def answer(space: Namespace, manifest: Mapping[str, Any]) -> str:
    """What the API server says to a manifest, dry."""
    try:
        return space.kubectl("create", "--dry-run=server", "--filename", "-", stdin=json.dumps(manifest))
    except ClusterError as error:
        return str(error)


def put(manifest: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """With these fields of spec, dotted, put in; None takes one away."""
    for path, given in fields.items():
        *parents, last = path.split(".")
        place = manifest["spec"]
        for parent in parents:
            place = place[parent]
        if given is None:
            del place[last]
        else:
            place[last] = given
    return manifest


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: f"{bound.row} {bound.said}")
def test_a_field_at_its_bound_and_beyond(bound: Bound, shop: Namespace) -> None:
    def manifest() -> dict[str, Any]:
        return shop.sync("bound", {"k": "a"})

    assert "created (server dry run)" in answer(shop, put(manifest(), bound.taken))
    assert bound.said in answer(shop, put(manifest(), bound.refused))


@pytest.mark.parametrize("wrong", MISTAKES, ids=lambda wrong: f"{wrong.row} {wrong.said}")
def test_an_akvsync_that_is_refused(wrong: Mistake, shop: Namespace) -> None:
    manifest = msgspec.yaml.decode(guide.AKV_SYNC)
    manifest["metadata"]["namespace"] = shop.name
    assert "created (server dry run)" in answer(shop, manifest)
    if wrong.first is not None:
        manifest["spec"]["objects"][0] = wrong.first
    assert wrong.said in answer(shop, put(manifest, wrong.spec))


@holds("spec: type is immutable")
def test_the_type_is_immutable(played: Played) -> None:
    patch = json.dumps({"spec": {"secretObject": {"type": "kubernetes.io/ssh-auth"}}})
    with pytest.raises(ClusterError, match=TYPE_STAYS):
        played.space.kubectl("patch", "secretsync", "v1", "--type=merge", "--patch", patch)


# --- What happens in time --------------------------------------------------------------------------------------------


@holds(
    "spec: forceSynchronization",
    "reason: UpdateValueChangeOrForceUpdateSucceeded",
    "reason: UpdateNoValueChangeSucceeded",
    "life: a change of spec looks now",
    "life: dies with it",
)
def test_from_the_first_look_to_the_end(space: Namespace) -> None:
    space.put("a", "1")
    sync = space.sync("s", {"k": "a"})
    space.apply(space.provider_class("a"), sync)
    space.wait_secret("s", {"k": "1"})
    space.put("a", "2")
    space.force("s")
    space.wait_secret("s", {"k": "2"})
    space.wait_reason("s", Reason.WRITTEN)
    space.force("s")
    space.wait_reason("s", Reason.UP_TO_DATE)
    space.put("a", "3")
    space.apply(put(sync, {"secretObject.labels": {"tier": "data"}}))
    space.wait_secret("s", {"k": "3"})
    space.kubectl("delete", "secretsync", "s")
    eventually(lambda: space.get("secret", "s"), lambda found: not found)


def tokens_of(space: Namespace) -> int:
    """How many tokens of the namespace's ServiceAccounts the controller has asked for."""
    lines = map(json.loads, space.installed.plane.audit_log.read_text().splitlines())
    asked = [line["objectRef"] for line in lines if line.get("objectRef", {}).get("subresource") == "token"]
    return sum(where["namespace"] == space.name for where in asked)


@holds("life: missing while it is reconciled")
def test_a_secretsync_that_goes_meanwhile_is_no_error(space: Namespace, controller: Workload) -> None:
    space.put("a", "1")
    space.apply(space.provider_class("a"))
    lines = len(controller.log.read_text().splitlines())
    space.installed.emulator.delay(2, where=space.vault)
    space.apply(space.sync("going", {"k": "a"}))
    # Its token comes first, and then the vault takes its time.
    eventually(lambda: tokens_of(space), lambda found: found)
    space.kubectl("delete", "secretsync", "going")
    space.apply(space.sync("staying", {"k": "a"}))
    space.wait_secret("staying", {"k": "1"})
    said = [json.loads(line) for line in controller.log.read_text().splitlines()[lines:]]
    assert [line for line in said if line["level"] in ("warning", "error")] == []
    eventually(lambda: space.names("secret"), ["staying"].__eq__)


@holds("reason: InvalidClusterSecretLabelError", "reason: InvalidClusterSecretAnnotationError")
@pytest.mark.parametrize("metadata", [{}, {"labels": LABEL}, {"annotations": {"note": "theirs"}}])
def test_a_secret_that_is_not_ours(space: Namespace, metadata: dict[str, Any]) -> None:
    """SSE tells a missing label from a missing annotation. Here the owner counts, so there is one reason."""
    space.put("a", "1")
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", **metadata}, "data": {"x": "eA=="}}
    space.apply(theirs, space.provider_class("a"))
    before = space.get("secret", "s")
    space.apply(space.sync("s", {"k": "a"}))
    assert "was not touched" in space.wait_reason("s", Reason.LABEL_ERROR)
    assert space.get("secret", "s") == before


@holds("reason: ControllerSyncFailed", "reason: UnknownError")
def test_a_write_that_the_api_server_refuses(space: Namespace) -> None:
    """SSE calls that UnknownError. What is known is told, with SSE's reason for the API server's refusals."""
    space.put("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"immutable":true}')
    space.put("a", "2")
    space.force("s")
    assert "marked immutable: delete it" in space.wait_reason("s", Reason.SYNC_FAILED)
    assert space.secret("s") == {"k": value("1")}


# --- The manifests, as they stand ------------------------------------------------------------------------------------


@contextlib.contextmanager
def place(installed: Installed, namespace: str, account: str, vault: str, client: str) -> Iterator[None]:
    """A namespace, a vault and an identity of given names; `tests.cluster.world.Namespace` makes its own up."""
    emulator, plane = installed.emulator, installed.plane
    emulator.add_vault(vault, TENANT)
    emulator.add_identity(client, TENANT)
    emulator.federate(client, plane.issuer, f"system:serviceaccount:{namespace}:{account}")
    for role in ("Key Vault Reader", "Key Vault Secrets User"):
        emulator.assign_role(client, vault, role)
    plane.kubectl("create", "namespace", namespace)
    yield
    plane.kubectl("delete", "namespace", namespace, "--wait=false")


@holds(
    "guide: ServiceAccount",
    "guide: SecretProviderClass",
    "guide: SecretSync",
    "guide: kubectl get secrets",
    "guide: kubectl get secret -o jsonpath",
)
def test_the_guides_own_manifests(installed: Installed, controller: Workload) -> None:
    fill = guide.VARIABLES
    namespace, secret = fill["KUBERNETES_NAMESPACE"], fill["KEYVAULT_SECRET_NAME"]
    account, vault, client = (
        fill[name] for name in ("SERVICE_ACCOUNT_NAME", "KEYVAULT_NAME", "USER_ASSIGNED_CLIENT_ID")
    )
    kubectl = installed.plane.kubectl
    with place(installed, namespace, account, vault, client):
        for second, text in enumerate(("Hello!", "Hello2")):
            installed.emulator.set_clock(-10 + second)
            installed.emulator.set_secret(vault, secret, text)
        installed.emulator.set_clock(0)
        for manifest in (guide.SERVICE_ACCOUNT, guide.PROVIDER_CLASS, guide.SECRET_SYNC):
            kubectl("apply", "--filename", "-", stdin=guide.substitute(manifest))
        kubectl("wait", "secretsync", guide.SYNC_NAME, "-n", namespace, "--for=condition=Ready", "--timeout=20s")
        assert guide.SYNC_NAME in kubectl("get", "secrets", "-n", namespace)
        # The guide's two commands to view the values, and what its two `az keyvault secret set` have put there.
        for number, text in enumerate(("Hello2", "Hello!")):
            path = f"jsonpath={{.data.{secret}-data-key{number}}}"
            shown = kubectl("get", "secret", guide.SYNC_NAME, "-n", namespace, "-o", path)
            assert base64.b64decode(shown).decode() == text
        found = json.loads(kubectl("get", "secret", guide.SYNC_NAME, "-n", namespace, "-o", "json"))
        assert (found["type"], found["metadata"]["labels"], len(found["data"])) == ("Opaque", LABEL, 2)
        (owner,) = found["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("SecretSync", guide.SYNC_NAME)
        assert "blockOwnerDeletion" not in owner


@holds(
    "AKVSync: manifest",
    "AKVSync: secretInAKV",
    "AKVSync: certInAKV",
    "AKVSync: mapping",
    "AKVSync: kubernetesSecretName",
    "AKVSync: kubernetesSecretType",
    "AKVSync: versionHistory",
    "AKVSync: versionHistory of TLS",
    "AKVSync: version",
    "AKVSync: status of every part",
    "AKVSync: deleting it",
)
def test_the_references_own_akvsync(installed: Installed, controller: Workload) -> None:
    spec = msgspec.yaml.decode(guide.AKV_SYNC)["spec"]
    vault, client, emulator = spec["keyvaultName"], spec["clientID"], installed.emulator
    # The emulator's identities have one tenant, which stands for the placeholder.
    manifest = guide.AKV_SYNC.replace(spec["tenantID"], TENANT)
    leaves = {name: [issue(name, ISSUER, start=TODAY) for _ in range(2)] for name in ("web", "web-old", "edge")}
    with place(installed, "shop", spec["serviceAccountName"], vault, client):
        for second, text in enumerate(("oldest", "old", "new")):
            emulator.set_clock(-10 + second)
            emulator.set_secret(vault, "db-password", text)
            for name, versions in leaves.items():
                if second:
                    emulator.import_certificate(vault, name, as_pem(versions[2 - second], ISSUER))
        emulator.set_clock(0)
        for name in ("api-token", "deploy-key", "db-user"):
            emulator.set_secret(vault, name, f"the {name}")
        installed.plane.kubectl("create", "serviceaccount", spec["serviceAccountName"], "--namespace", "shop")
        installed.plane.kubectl("apply", "--filename", "-", stdin=manifest)

        def get(kind: str) -> dict[str, dict[str, Any]]:
            found = json.loads(installed.plane.kubectl("get", kind, "--namespace", "shop", "--output", "json"))
            return {item["metadata"]["name"]: item for item in found["items"]}

        status = eventually(
            lambda: get("akvsync")["shop"].get("status", {}), lambda found: found.get("summary") == "8/8"
        )
        web, old, edge = leaves.values()
        wanted: dict[str, tuple[str, dict[str, str]]] = {
            "api-token": ("Opaque", {"v0": "the api-token"}),
            "db": ("Opaque", {"v0": "new", "v1": "old", "v2": "oldest"}),
            "web": ("kubernetes.io/tls", {"tls.crt": chain(web[0]), "tls.key": traditional(web[0])}),
            "web-old": ("Opaque", {"v0": whole(old[0]), "v1": whole(old[1])}),
            "edge-v0": ("kubernetes.io/tls", {"tls.crt": chain(edge[0]), "tls.key": traditional(edge[0])}),
            "edge-v1": ("kubernetes.io/tls", {"tls.crt": chain(edge[1]), "tls.key": traditional(edge[1])}),
            "deploy-key": ("kubernetes.io/ssh-auth", {"ssh-privatekey": "the deploy-key"}),
            "bundle": ("Opaque", {"user": "the db-user", "previous": "old", "chain": whole(web[0])}),
        }
        secrets = get("secrets")
        assert {
            name: (item["type"], {key: base64.b64decode(text).decode() for key, text in item["data"].items()})
            for name, item in secrets.items()
        } == wanted
        assert secrets["db"]["metadata"]["labels"] == LABEL | {"tier": "data"}
        assert secrets["db"]["metadata"]["annotations"] == {"note": "rotated-weekly"}
        assert {part["name"]: part["ready"] for part in status["parts"]} == dict.fromkeys(wanted, True)
        installed.plane.kubectl("delete", "akvsync", "shop", "--namespace", "shop")
        eventually(lambda: [*get("secretsync"), *get("secretproviderclass"), *get("secrets")], lambda left: not left)


# --- The settings, as Azure Arc passes them --------------------------------------------------------------------------


TUNED = "tuned"


@pytest.fixture(scope="module")
def tuned(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A namespace that a release of its own serves, with SSE's settings at other values than their defaults."""
    space, name = Namespace(installed), "tuned-home"
    values = {
        "watchNamespaces": space.name,
        "controllerName": TUNED,
        "rotationPollIntervalInSeconds": "1",
        "enablePartialSecretSync": "false",
        "jitterSeconds": "1",
        "validatingAdmissionPolicies": {"applyPolicies": "true", "allowedSecretTypes": "Opaque, example.com/own"},
    }
    second = release(installed.plane, installed.emulator, tmp_path_factory.mktemp("tuned"), name, **values)
    workload = second.workload()
    installed.logs.append(workload.log)
    with at_work(workload):
        yield space
    helm.run(["uninstall", name, "--namespace", name, "--kubeconfig", str(installed.plane.kubeconfig)])
    installed.plane.kubectl("delete", "namespace", name, "--wait=false")
    space.remove()


@holds("setting: rotationPollIntervalInSeconds", "setting: jitterSeconds", "setting: enablePartialSecretSync")
@holds("setting: the names of release and namespace")
def test_the_settings_have_sses_defaults(installed: Installed) -> None:
    found = Settings.from_environment(installed.workload().env)
    assert (found.rotation_poll_interval, found.jitter, found.enable_partial_secret_sync) == (3600, 0, True)
    assert installed.release == "azure-secret-store"


def test_a_new_value_comes_within_interval_and_jitter(tuned: Namespace) -> None:
    tuned.put("a", "1")
    tuned.apply(tuned.provider_class("a"), tuned.sync("s", {"k": "a"}, secretSyncControllerName=TUNED))
    tuned.wait_secret("s", {"k": "1"})
    tuned.put("a", "2")
    tuned.wait_secret("s", {"k": "2"}, patience=8)


def test_all_keys_or_none(tuned: Namespace) -> None:
    tuned.put("there", "1")
    tuned.apply(tuned.provider_class("there", "none", name="halves"))
    given = {"secretProviderClassName": "halves", "secretSyncControllerName": TUNED}
    tuned.apply(tuned.sync("both", {"a": "there", "b": "none"}, **given))
    assert "secret none is not in Key Vault" in tuned.wait_reason("both", Reason.PROVIDER_ERROR)
    assert tuned.secret("both") == {}


def test_the_types_that_the_administrator_allows(tuned: Namespace) -> None:
    tuned.put("b", "1")
    tuned.apply(tuned.provider_class("b", name="types"))
    for name, kind, key in (("own", "example.com/own", "k"), ("ssh", "kubernetes.io/ssh-auth", "ssh-privatekey")):
        given = {"secretProviderClassName": "types", "secretSyncControllerName": TUNED}
        tuned.apply(tuned.sync(name, {key: "b"}, secretObject={"type": kind}, **given))
    tuned.wait_secret("own", {"k": "1"})
    assert tuned.get("secret", "own")["type"] == "example.com/own"
    assert "allowedSecretTypes" in tuned.wait_reason("ssh", Reason.POLICY_REFUSED)


@holds("setting: kubectl.image")
def test_the_image_of_sses_own_job_is_no_setting_here() -> None:
    """Ours takes the controller's image, and who brings that setting along is told."""
    with pytest.raises(helm.BadValues, match=r"kubectl: there is no such value"):
        helm.run(["template", "mine", str(helm.CHART), "--set", "kubectl.image.tag=1"])
