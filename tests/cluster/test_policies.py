"""Test which requests the chart's admission policies and Roles allow to a thief of the controller's token."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.config.settings import FOREIGN_SECRET, TOKEN_AUDIENCE, TOKEN_SECONDS
from controller.kube.resources import METADATA_ONLY
from tests.support.cluster.harness import MANAGED_LABEL, SINCE_POLICIES, eventually
from tests.support.cluster.token_thief import (
    CONTROLLER_NAMESPACE,
    LEASES,
    MERGE,
    SECRETS,
    STRATEGIC,
    TARGET_NAMESPACE,
    VALUE,
    TargetNamespace,
    TokenThief,
    assert_denied_by_policy,
    grant_all_verbs,
    make_owner,
    make_secret,
    request_token,
)
from tools.codegen.deployment import PROBE_SECRET_TYPE

pytestmark = pytest.mark.since(*SINCE_POLICIES)


@pytest.fixture
def privileged_thief(shop: TargetNamespace) -> Iterator[TokenThief]:
    """Provide a thief of the same account, which also has every verb on Secrets and Leases."""
    with grant_all_verbs(shop, ("", "secrets"), ("coordination.k8s.io", "leases")) as thief:
        yield thief


# --- Requests of the controller ------------------------------------------------------------------------------------


def test_own_secret_can_be_created_probed_and_changed(shop: TargetNamespace, thief: TokenThief) -> None:
    uid = shop.create_sync("own")
    assert thief.create(make_secret("own", [make_owner(uid, "own")])).status == 201
    seen = thief.patch("own", {})
    assert seen.status == 200
    assert VALUE not in seen.text
    assert thief.patch("own", {"data": {"more": VALUE}}).status == 200
    assert thief.patch("none", {}).status == 404


@pytest.mark.parametrize("kind", ["Opaque", "kubernetes.io/tls"])
def test_secret_of_an_allowed_type_can_be_created(kind: str, shop: TargetNamespace, thief: TokenThief) -> None:
    name = f"allowed-{kind.split('/')[-1].lower()}"
    made = make_secret(
        name, [make_owner(shop.create_sync(name), name)], type=kind, data={"tls.crt": VALUE, "tls.key": VALUE}
    )
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
def test_secret_of_another_type_is_refused(
    kind: str, data: dict[str, str], why: str, shop: TargetNamespace, thief: TokenThief
) -> None:
    name = kind.replace("/", ".").lower()
    made = make_secret(name, [make_owner(shop.create_sync(name), name)], type=kind, data=data)
    made["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "default"}
    assert_denied_by_policy(thief.create(made), why)


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
def test_only_owner_must_be_the_secretsync_with_the_same_name(
    owners: list[dict[str, str]], shop: TargetNamespace, thief: TokenThief
) -> None:
    made = make_secret(
        "disowned", [make_owner("11111111-1111-1111-1111-111111111111", "disowned", **change) for change in owners]
    )
    assert_denied_by_policy(thief.create(made), "the only owner of a Secret must be the SecretSync with its name")


def test_label_is_required_and_cannot_be_removed(shop: TargetNamespace, thief: TokenThief) -> None:
    uid = shop.create_sync("labelled")
    assert_denied_by_policy(
        thief.create(make_secret("labelled", [make_owner(uid, "labelled")], metadata={"labels": {}})),
        "must have the label",
    )
    assert_denied_by_policy(
        thief.create(
            make_secret(
                "labelled", [make_owner(uid, "labelled")], metadata={"labels": {next(iter(MANAGED_LABEL)): "x"}}
            )
        ),
        "label",
    )
    assert thief.create(make_secret("labelled", [make_owner(uid, "labelled")])).status == 201
    assert_denied_by_policy(thief.patch("labelled", {"metadata": {"labels": None}}), "must have the label")
    # If a user removes the label, the controller must detect and restore it.
    shop.plane.kubectl("label", "secret", "labelled", "--namespace", TARGET_NAMESPACE, f"{next(iter(MANAGED_LABEL))}-")
    assert thief.patch("labelled", {}).status == 200
    assert thief.patch("labelled", {"metadata": {"labels": MANAGED_LABEL}}).status == 200
    assert shop.get_secret("labelled")["metadata"]["labels"] == MANAGED_LABEL


# --- Foreign Secrets -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(shop: TargetNamespace) -> dict[str, Any]:
    shop.create(make_secret("foreign", []))
    return shop.get_secret("foreign")


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
def test_patch_neither_reads_nor_changes_a_foreign_secret(
    body: Any, kind: str, query: str, accept: str, thief: TokenThief, foreign: dict[str, Any], shop: TargetNamespace
) -> None:
    assert_denied_by_policy(thief.send("PATCH", f"{SECRETS}/foreign{query}", body, kind, accept), FOREIGN_SECRET)
    assert shop.get_secret("foreign") == foreign


@pytest.mark.parametrize("query", ["fieldManager=x", "fieldManager=x&force=true", "fieldManager=x&dryRun=All"])
def test_server_side_apply_neither_reads_nor_changes_a_foreign_secret(
    query: str, thief: TokenThief, foreign: dict[str, Any], shop: TargetNamespace
) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "foreign"}}
    answer = thief.send("PATCH", f"{SECRETS}/foreign?{query}", body, "application/apply-patch+yaml")
    assert_denied_by_policy(answer, FOREIGN_SECRET)
    assert shop.get_secret("foreign") == foreign


def test_foreign_secret_of_a_forbidden_type_is_refused_as_foreign(thief: TokenThief, shop: TargetNamespace) -> None:
    shop.create({**make_secret("foreign-type", []), "type": "example.com/other"})
    assert_denied_by_policy(thief.patch("foreign-type", {}), FOREIGN_SECRET)


def test_secret_with_edited_owner_is_foreign(thief: TokenThief, shop: TargetNamespace) -> None:
    shop.create(make_secret("shared", [make_owner(shop.create_sync("shared"), "shared")]))
    assert thief.patch("shared", {}).status == 200
    # The second owner must exist, because the garbage collector removes references to missing owners.
    second = make_owner(shop.create_sync("second"), "second")
    owners = json.dumps([*shop.get_secret("shared")["metadata"]["ownerReferences"], second])
    shop.plane.kubectl(
        "patch",
        "secret",
        "shared",
        "--namespace",
        TARGET_NAMESPACE,
        "--type=merge",
        "-p",
        f'{{"metadata":{{"ownerReferences":{owners}}}}}',
    )
    assert_denied_by_policy(thief.patch("shared", {}), FOREIGN_SECRET)


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
        ("GET", f"/api/v1/watch/namespaces/{TARGET_NAMESPACE}/secrets/foreign"),
        ("GET", "/api/v1/pods"),
        ("GET", f"/api/v1/namespaces/{TARGET_NAMESPACE}/pods/any/log"),
        ("GET", f"/api/v1/namespaces/{TARGET_NAMESPACE}/events"),
        ("GET", f"/apis/events.k8s.io/v1/namespaces/{TARGET_NAMESPACE}/events?watch=true"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        ("GET", LEASES),
        ("GET", f"{LEASES}/another"),
        ("PATCH", f"{LEASES}/another"),
        ("DELETE", f"{LEASES}/scribe"),
        ("PATCH", LEASES.replace(CONTROLLER_NAMESPACE, TARGET_NAMESPACE) + "/scribe"),
    ],
)
def test_roles_grant_no_other_verb(method: str, path: str, thief: TokenThief, foreign: dict[str, Any]) -> None:
    answer = thief.send(method, path, foreign if method == "PUT" else None)
    assert answer.status == 403
    assert VALUE not in answer.text


def test_only_the_lease_of_the_release_can_be_written(thief: TokenThief) -> None:
    own = f"{LEASES}/scribe"
    assert thief.send("GET", own).status == 200
    assert thief.send("PATCH", own, {"spec": {"holderIdentity": "thief"}}, MERGE).status == 200
    assert thief.send("PATCH", own, {"spec": {"holderIdentity": None}}, MERGE).status == 200


def test_refused_create_reveals_nothing_about_existing_secrets(thief: TokenThief, foreign: dict[str, Any]) -> None:
    answer = thief.create(make_secret("foreign", [make_owner("11111111-1111-1111-1111-111111111111", "foreign")]))
    assert answer.status == 409
    assert VALUE not in answer.text


def test_errors_before_admission_are_outside_the_policies(
    thief: TokenThief, foreign: dict[str, Any], shop: TargetNamespace
) -> None:
    """Show that the error of an invalid JSON patch quotes a value.

    The API server applies a JSON patch before admission, and its error quotes the result. The verb `patch` is therefore
    a permission to read. The chart's README says so and recommends `watchNamespaces`. `test_stolen_token.py` tests
    other such requests. If this test fails with a release of Kubernetes, that paragraph can be removed.
    """
    trick = [{"op": "copy", "from": "/data/key", "path": "/metadata/name"}]
    answer = thief.send("PATCH", f"{SECRETS}/foreign", trick, "application/json-patch+json")
    assert answer.status == 400
    assert VALUE in answer.text
    assert shop.get_secret("foreign") == foreign


# --- More permissions than the chart grants ------------------------------------------------------------------------


def test_secret_can_neither_be_deleted_nor_given_to_the_garbage_collector(
    privileged_thief: TokenThief, shop: TargetNamespace
) -> None:
    uid = shop.create_sync("lasting")
    assert privileged_thief.create(make_secret("lasting", [make_owner(uid, "lasting")])).status == 201
    for path in (f"{SECRETS}/lasting", SECRETS, f"{SECRETS}?dryRun=All"):
        assert_denied_by_policy(privileged_thief.send("DELETE", path), "the controller does not delete Secrets")
    dead = [make_owner("33333333-3333-3333-3333-333333333333", "lasting")]
    assert_denied_by_policy(
        privileged_thief.patch("lasting", {"metadata": {"ownerReferences": dead}}),
        "the owner of a Secret must not change",
    )
    assert_denied_by_policy(
        privileged_thief.patch("lasting", {"metadata": {"ownerReferences": None}}), "the only owner of a Secret must be"
    )
    assert shop.get_secret("lasting")["metadata"]["ownerReferences"][0]["uid"] == uid


def test_foreign_secret_cannot_be_adopted(privileged_thief: TokenThief, shop: TargetNamespace) -> None:
    shop.create(make_secret("adopted", []))
    body = {"metadata": {"ownerReferences": [make_owner(shop.create_sync("adopted"), "adopted")]}}
    assert_denied_by_policy(privileged_thief.patch("adopted", body), FOREIGN_SECRET)
    whole = shop.get_secret("adopted")
    whole["metadata"] |= body["metadata"]
    assert_denied_by_policy(privileged_thief.send("PUT", f"{SECRETS}/adopted", whole), FOREIGN_SECRET)


@pytest.mark.parametrize("query", ["", "?dryRun=All"])
def test_account_with_all_verbs_writes_only_its_own_lease(
    query: str, privileged_thief: TokenThief, shop: TargetNamespace
) -> None:
    why = "the controller creates and updates only its own Lease, and deletes none"
    elsewhere = LEASES.replace(CONTROLLER_NAMESPACE, TARGET_NAMESPACE)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    # Create a Lease with another name in the controller's namespace, and one with its name in another namespace.
    for namespace, name in ((CONTROLLER_NAMESPACE, "another"), (TARGET_NAMESPACE, "scribe")):
        body = json.dumps({**lease, "metadata": {"name": name, "namespace": namespace}})
        shop.plane.kubectl("apply", "-f", "-", stdin=body)
    for path in (f"{LEASES}/another", f"{elsewhere}/scribe"):
        assert_denied_by_policy(
            privileged_thief.send("PATCH", path + query, {"spec": {"holderIdentity": "thief"}}, MERGE), why
        )
        assert_denied_by_policy(privileged_thief.send("DELETE", path + query), why)
    for path in (LEASES, elsewhere):
        assert_denied_by_policy(
            privileged_thief.send("POST", path + query, {**lease, "metadata": {"name": "made-up"}}), why
        )
        assert_denied_by_policy(privileged_thief.send("DELETE", path + query), why)
    assert_denied_by_policy(privileged_thief.send("DELETE", f"{LEASES}/scribe{query}"), why)
    own = {**lease, "metadata": {"name": "scribe"}}
    assert privileged_thief.send("POST", LEASES + query, own).status in (201, 409)
    assert privileged_thief.send("POST", f"{LEASES}?dryRun=All", own).status in (201, 409)
    for change in ({"labels": {"a": "b"}}, {"annotations": {"a": "b"}}, {"finalizers": ["example.com/x"]}):
        marked = {**lease, "metadata": {"name": "scribe", **change}}
        shop.plane.kubectl("delete", "lease", "scribe", "--namespace", CONTROLLER_NAMESPACE)
        assert_denied_by_policy(
            privileged_thief.send("POST", LEASES + query, marked),
            "labels, annotations, finalizers and owners of its Lease",
        )
        assert privileged_thief.send("POST", LEASES, own).status == 201
    assert (
        privileged_thief.send("PATCH", f"{LEASES}/scribe{query}", {"spec": {"leaseTransitions": 1}}, MERGE).status
        == 200
    )


# --- Tokens --------------------------------------------------------------------------------------------------------


def test_token_for_entra_is_allowed(thief: TokenThief) -> None:
    answer = request_token(thief, audiences=[TOKEN_AUDIENCE], expirationSeconds=TOKEN_SECONDS)
    assert answer.status == 201
    claims = json.loads(base64.urlsafe_b64decode(json.loads(answer.text)["status"]["token"].split(".")[1] + "=="))
    assert claims["aud"] == [TOKEN_AUDIENCE]


@pytest.mark.parametrize(
    "audiences", [[], None, ["https://kubernetes.default.svc"], [TOKEN_AUDIENCE, "vault"], [TOKEN_AUDIENCE + "/"]]
)
def test_token_for_another_audience_is_refused(
    audiences: list[str] | None, thief: TokenThief, shop: TargetNamespace
) -> None:
    assert_denied_by_policy(
        request_token(thief, audiences=audiences, expirationSeconds=TOKEN_SECONDS),
        f"the audience {TOKEN_AUDIENCE} alone",
    )
    issuer = request_token(thief, audiences=[shop.plane.issuer], expirationSeconds=TOKEN_SECONDS)
    assert_denied_by_policy(issuer, f"the audience {TOKEN_AUDIENCE} alone")


@pytest.mark.parametrize("spec", [{"expirationSeconds": TOKEN_SECONDS + 1}, {"expirationSeconds": 86400}, {}])
def test_token_with_a_longer_lifetime_is_refused(spec: dict[str, Any], thief: TokenThief) -> None:
    assert_denied_by_policy(request_token(thief, audiences=[TOKEN_AUDIENCE], **spec), "at most 600 seconds")


def test_token_of_a_privileged_account_is_refused(thief: TokenThief) -> None:
    assert_denied_by_policy(
        request_token(
            thief, "clusterrole-aggregation-controller", "kube-system", audiences=[], expirationSeconds=TOKEN_SECONDS
        ),
        "tokens are for the audience",
    )


# --- Other users ---------------------------------------------------------------------------------------------------


def test_policies_do_not_restrict_another_account(shop: TargetNamespace) -> None:
    shop.plane.kubectl("create", "serviceaccount", "clerk", "--namespace", TARGET_NAMESPACE)
    shop.plane.kubectl(
        "create", "role", "clerk", "--namespace", TARGET_NAMESPACE, "--verb=create,patch,delete", "--resource=secrets"
    )
    shop.plane.kubectl(
        "create",
        "rolebinding",
        "clerk",
        "--namespace",
        TARGET_NAMESPACE,
        "--role=clerk",
        f"--serviceaccount={TARGET_NAMESPACE}:clerk",
    )
    clerk = TokenThief(shop.plane, TARGET_NAMESPACE, "clerk")
    made = {**make_secret("clerks", []), "type": "example.com/any"}
    assert eventually(lambda: clerk.create(made), lambda answer: answer.status != 403).status == 201
    assert clerk.patch("clerks", {"metadata": {"labels": None}}).status == 200
    assert clerk.send("DELETE", f"{SECRETS}/clerks").status == 200
