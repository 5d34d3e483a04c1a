"""The controller's own token, stolen: what the chart's admission policies and Roles let a thief do."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.kube import METADATA_ONLY
from controller.settings import FOREIGN_SECRET, TOKEN_AUDIENCE, TOKEN_SECONDS
from tests.cluster.thief import (
    HOME,
    MERGE,
    SECRETS,
    SHOP,
    STRATEGIC,
    VALUE,
    Answer,
    Shop,
    Thief,
    granted_everything,
    owner,
    refused,
    secret,
)
from tests.cluster.world import LABEL, POLICIES, eventually
from tools.deployment import PROBE_SECRET_TYPE

pytestmark = pytest.mark.since(*POLICIES)
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases"


@pytest.fixture
def mighty(shop: Shop) -> Iterator[Thief]:
    """The same account while it has been granted everything on Secrets and Leases besides."""
    with granted_everything(shop, ("", "secrets"), ("coordination.k8s.io", "leases")) as thief:
        yield thief


# --- What the controller is for works ------------------------------------------------------------------------------


def test_a_secret_of_its_own_can_be_made_seen_and_changed(shop: Shop, thief: Thief) -> None:
    uid = shop.sync("own")
    assert thief.create(secret("own", [owner(uid, "own")])).status == 201
    seen = thief.patch("own", {})
    assert seen.status == 200
    assert VALUE not in seen.text
    assert thief.patch("own", {"data": {"more": VALUE}}).status == 200
    assert thief.patch("none", {}).status == 404


@pytest.mark.parametrize("kind", ["Opaque", "kubernetes.io/tls"])
def test_types_that_are_allowed(kind: str, shop: Shop, thief: Thief) -> None:
    name = f"allowed-{kind.split('/')[-1].lower()}"
    made = secret(name, [owner(shop.sync(name), name)], type=kind, data={"tls.crt": VALUE, "tls.key": VALUE})
    assert thief.create(made).status == 201


# --- Types, owners, label ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "why"),
    [
        ("kubernetes.io/service-account-token", {}, "are never written"),
        (PROBE_SECRET_TYPE, {}, "are never written"),
        ("kubernetes.io/ssh-auth", {"ssh-privatekey": VALUE}, "allowedSecretTypes"),
        ("helm.sh/release.v1", {}, "are never written"),
    ],
)
def test_other_types_are_refused(kind: str, data: dict[str, str], why: str, shop: Shop, thief: Thief) -> None:
    name = kind.replace("/", ".").lower()
    made = secret(name, [owner(shop.sync(name), name)], type=kind, data=data)
    made["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "default"}
    refused(thief.create(made), why)


@pytest.mark.parametrize(
    "owners",
    [
        [],
        [{"name": "another"}],
        [{"kind": "ConfigMap"}],
        [{"apiVersion": "secret-sync.x-k8s.io.evil.example/v1"}],
        [{"apiVersion": "secret-sync.x-k8s.io"}],
        [{"kind": "AKVSync"}],
        [{}, {"kind": "ConfigMap", "apiVersion": "v1"}],
    ],
    ids=["none", "another name", "another kind", "another group", "no version", "an AKVSync", "two"],
)
def test_the_sole_owner_must_be_the_secretsync_of_that_name(
    owners: list[dict[str, str]], shop: Shop, thief: Thief
) -> None:
    made = secret(
        "disowned", [owner("11111111-1111-1111-1111-111111111111", "disowned", **change) for change in owners]
    )
    refused(thief.create(made), "the one owner of a Secret must be the SecretSync of its name")


def test_the_label_is_required_and_stays(shop: Shop, thief: Thief) -> None:
    uid = shop.sync("labelled")
    refused(thief.create(secret("labelled", [owner(uid, "labelled")], metadata={"labels": {}})), "must carry the label")
    refused(
        thief.create(secret("labelled", [owner(uid, "labelled")], metadata={"labels": {next(iter(LABEL)): "x"}})),
        "label",
    )
    assert thief.create(secret("labelled", [owner(uid, "labelled")])).status == 201
    refused(thief.patch("labelled", {"metadata": {"labels": None}}), "must carry the label")
    # Somebody took it away: that must be seen, and mended.
    shop.plane.kubectl("label", "secret", "labelled", "--namespace", SHOP, f"{next(iter(LABEL))}-")
    assert thief.patch("labelled", {}).status == 200
    assert thief.patch("labelled", {"metadata": {"labels": LABEL}}).status == 200
    assert shop.secret("labelled")["metadata"]["labels"] == LABEL


# --- Somebody else's Secrets ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(shop: Shop) -> dict[str, Any]:
    shop.put(secret("foreign", []))
    return shop.secret("foreign")


@pytest.mark.parametrize("query", ["", "?dryRun=All"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({}, MERGE),
        ({}, STRATEGIC),
        ([], "application/json-patch+json"),
        ([{"op": "test", "path": "/data/key", "value": VALUE}], "application/json-patch+json"),
        ({"data": {"key": None}}, MERGE),
        ({"metadata": {"labels": {"a": "b"}}}, MERGE),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", METADATA_ONLY])
def test_a_patch_neither_reads_nor_changes_a_foreign_secret(
    body: Any, kind: str, query: str, accept: str, thief: Thief, foreign: dict[str, Any], shop: Shop
) -> None:
    refused(thief.send("PATCH", f"{SECRETS}/foreign{query}", body, kind, accept), FOREIGN_SECRET)
    assert shop.secret("foreign") == foreign


@pytest.mark.parametrize("query", ["fieldManager=x", "fieldManager=x&force=true", "fieldManager=x&dryRun=All"])
def test_nor_does_server_side_apply(query: str, thief: Thief, foreign: dict[str, Any], shop: Shop) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "foreign"}}
    answer = thief.send("PATCH", f"{SECRETS}/foreign?{query}", body, "application/apply-patch+yaml")
    refused(answer, FOREIGN_SECRET)
    assert shop.secret("foreign") == foreign


def test_a_foreign_secret_of_a_forbidden_type_is_foreign_first(thief: Thief, shop: Shop) -> None:
    shop.put({**secret("foreign-type", []), "type": "example.com/other"})
    refused(thief.patch("foreign-type", {}), FOREIGN_SECRET)


def test_a_secret_whose_ownership_was_edited_is_foreign(thief: Thief, shop: Shop) -> None:
    shop.put(secret("shared", [owner(shop.sync("shared"), "shared")]))
    assert thief.patch("shared", {}).status == 200
    # The second owner is there, too: the garbage collector takes away references to owners that are not.
    second = owner(shop.sync("second"), "second")
    owners = json.dumps([*shop.secret("shared")["metadata"]["ownerReferences"], second])
    shop.plane.kubectl(
        "patch",
        "secret",
        "shared",
        "--namespace",
        SHOP,
        "--type=merge",
        "-p",
        f'{{"metadata":{{"ownerReferences":{owners}}}}}',
    )
    refused(thief.patch("shared", {}), FOREIGN_SECRET)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{SECRETS}/foreign"),
        ("GET", SECRETS),
        ("GET", "/api/v1/secrets"),
        ("GET", f"{SECRETS}?watch=true"),
        ("DELETE", f"{SECRETS}/foreign"),
        ("DELETE", SECRETS),
        ("PUT", f"{SECRETS}/foreign"),
        ("GET", f"{SECRETS}/foreign?resourceVersion=0"),
        ("GET", f"/api/v1/watch/namespaces/{SHOP}/secrets/foreign"),
        ("GET", "/api/v1/pods"),
        ("GET", f"/api/v1/namespaces/{SHOP}/pods/any/log"),
        ("GET", f"/api/v1/namespaces/{SHOP}/events"),
        ("GET", f"/apis/events.k8s.io/v1/namespaces/{SHOP}/events?watch=true"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        ("GET", LEASES),
        ("GET", f"{LEASES}/another"),
        ("PATCH", f"{LEASES}/another"),
        ("DELETE", f"{LEASES}/scribe"),
        ("PATCH", LEASES.replace(HOME, SHOP) + "/scribe"),
    ],
)
def test_the_roles_grant_no_other_verb(method: str, path: str, thief: Thief, foreign: dict[str, Any]) -> None:
    answer = thief.send(method, path, foreign if method == "PUT" else None)
    assert answer.status == 403
    assert VALUE not in answer.text


def test_the_one_lease_that_it_may_touch_is_the_releases_own(thief: Thief) -> None:
    own = f"{LEASES}/scribe"
    assert thief.send("GET", own).status == 200
    assert thief.send("PATCH", own, {"spec": {"holderIdentity": "thief"}}, MERGE).status == 200
    assert thief.send("PATCH", own, {"spec": {"holderIdentity": None}}, MERGE).status == 200


def test_a_create_tells_nothing_of_what_is_there(thief: Thief, foreign: dict[str, Any]) -> None:
    answer = thief.create(secret("foreign", [owner("11111111-1111-1111-1111-111111111111", "foreign")]))
    assert answer.status == 409
    assert VALUE not in answer.text


def test_what_no_policy_can_stop(thief: Thief, foreign: dict[str, Any], shop: Shop) -> None:
    """A JSON patch is worked out before admission, and the API server's own error quotes what came of it.

    So the verb `patch` is a right to read, one named key a request, wherever it is granted: the chart's README says so
    and advises `watchNamespaces`. Should a release of Kubernetes make this fail, that paragraph can go.
    """
    trick = [{"op": "copy", "from": "/data/key", "path": "/metadata/name"}]
    answer = thief.send("PATCH", f"{SECRETS}/foreign", trick, "application/json-patch+json")
    assert answer.status == 400
    assert VALUE in answer.text
    assert shop.secret("foreign") == foreign


# --- Even with more rights than the chart grants -------------------------------------------------------------------


def test_a_secret_cannot_be_deleted_nor_be_given_to_the_garbage_collector(mighty: Thief, shop: Shop) -> None:
    uid = shop.sync("lasting")
    assert mighty.create(secret("lasting", [owner(uid, "lasting")])).status == 201
    for path in (f"{SECRETS}/lasting", SECRETS, f"{SECRETS}?dryRun=All"):
        refused(mighty.send("DELETE", path), "Secrets are not deleted by the controller")
    dead = [owner("33333333-3333-3333-3333-333333333333", "lasting")]
    refused(mighty.patch("lasting", {"metadata": {"ownerReferences": dead}}), "the owner of a Secret may not change")
    refused(mighty.patch("lasting", {"metadata": {"ownerReferences": None}}), "the one owner of a Secret must be")
    assert shop.secret("lasting")["metadata"]["ownerReferences"][0]["uid"] == uid


def test_a_foreign_secret_cannot_be_adopted(mighty: Thief, shop: Shop) -> None:
    shop.put(secret("adopted", []))
    body = {"metadata": {"ownerReferences": [owner(shop.sync("adopted"), "adopted")]}}
    refused(mighty.patch("adopted", body), FOREIGN_SECRET)
    whole = shop.secret("adopted")
    whole["metadata"] |= body["metadata"]
    refused(mighty.send("PUT", f"{SECRETS}/adopted", whole), FOREIGN_SECRET)


@pytest.mark.parametrize("query", ["", "?dryRun=All"])
def test_no_lease_but_its_own(query: str, mighty: Thief, shop: Shop) -> None:
    why = "the controller creates and updates its own Lease, and creates, changes or deletes no other"
    there = LEASES.replace(HOME, SHOP)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    # One of another name at home, and one of its name elsewhere, such as another controller's election holds.
    for namespace, name in ((HOME, "another"), (SHOP, "scribe")):
        body = json.dumps({**lease, "metadata": {"name": name, "namespace": namespace}})
        shop.plane.kubectl("apply", "-f", "-", stdin=body)
    for path in (f"{LEASES}/another", f"{there}/scribe"):
        refused(mighty.send("PATCH", path + query, {"spec": {"holderIdentity": "thief"}}, MERGE), why)
        refused(mighty.send("DELETE", path + query), why)
    for path in (LEASES, there):
        refused(mighty.send("POST", path + query, {**lease, "metadata": {"name": "made-up"}}), why)
        refused(mighty.send("DELETE", path + query), why)
    refused(mighty.send("DELETE", f"{LEASES}/scribe{query}"), why)
    own = {**lease, "metadata": {"name": "scribe"}}
    assert mighty.send("POST", LEASES + query, own).status in (201, 409)
    assert mighty.send("POST", f"{LEASES}?dryRun=All", own).status in (201, 409)
    for change in ({"labels": {"a": "b"}}, {"annotations": {"a": "b"}}, {"finalizers": ["example.com/x"]}):
        marked = {**lease, "metadata": {"name": "scribe", **change}}
        shop.plane.kubectl("delete", "lease", "scribe", "--namespace", HOME)
        refused(mighty.send("POST", LEASES + query, marked), "labels, annotations, finalizers and owners of its Lease")
        assert mighty.send("POST", LEASES, own).status == 201
    assert mighty.send("PATCH", f"{LEASES}/scribe{query}", {"spec": {"leaseTransitions": 1}}, MERGE).status == 200


# --- Tokens --------------------------------------------------------------------------------------------------------


def token_request(thief: Thief, account: str = "default", namespace: str = SHOP, **spec: Any) -> Answer:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return thief.send("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)


def test_a_token_for_entra_is_given(thief: Thief) -> None:
    answer = token_request(thief, audiences=[TOKEN_AUDIENCE], expirationSeconds=TOKEN_SECONDS)
    assert answer.status == 201
    claims = json.loads(base64.urlsafe_b64decode(json.loads(answer.text)["status"]["token"].split(".")[1] + "=="))
    assert claims["aud"] == [TOKEN_AUDIENCE]


@pytest.mark.parametrize(
    "audiences", [[], None, ["https://kubernetes.default.svc"], [TOKEN_AUDIENCE, "vault"], [TOKEN_AUDIENCE + "/"]]
)
def test_no_token_for_another_audience(audiences: list[str] | None, thief: Thief, shop: Shop) -> None:
    refused(
        token_request(thief, audiences=audiences, expirationSeconds=TOKEN_SECONDS),
        f"the audience {TOKEN_AUDIENCE} alone",
    )
    issuer = token_request(thief, audiences=[shop.plane.issuer], expirationSeconds=TOKEN_SECONDS)
    refused(issuer, f"the audience {TOKEN_AUDIENCE} alone")


@pytest.mark.parametrize("spec", [{"expirationSeconds": TOKEN_SECONDS + 1}, {"expirationSeconds": 86400}, {}])
def test_no_token_that_lasts_longer(spec: dict[str, Any], thief: Thief) -> None:
    refused(token_request(thief, audiences=[TOKEN_AUDIENCE], **spec), "600 seconds at most")


def test_no_token_of_an_administrator(thief: Thief) -> None:
    refused(
        token_request(
            thief, "clusterrole-aggregation-controller", "kube-system", audiences=[], expirationSeconds=TOKEN_SECONDS
        ),
        "tokens are for the audience",
    )


# --- Nobody else is judged -----------------------------------------------------------------------------------------


def test_another_account_is_not_judged(shop: Shop) -> None:
    shop.plane.kubectl("create", "serviceaccount", "clerk", "--namespace", SHOP)
    shop.plane.kubectl(
        "create", "role", "clerk", "--namespace", SHOP, "--verb=create,patch,delete", "--resource=secrets"
    )
    shop.plane.kubectl(
        "create", "rolebinding", "clerk", "--namespace", SHOP, "--role=clerk", f"--serviceaccount={SHOP}:clerk"
    )
    clerk = Thief(shop.plane, SHOP, "clerk")
    made = {**secret("clerks", []), "type": "example.com/any"}
    assert eventually(lambda: clerk.create(made), lambda answer: answer.status != 403).status == 201
    assert clerk.patch("clerks", {"metadata": {"labels": None}}).status == 200
    assert clerk.send("DELETE", f"{SECRETS}/clerks").status == 200
