"""Test that only the refuser's name and known words of a text about a Secret are passed on."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config.settings import FOREIGN_SECRET
from controller.kube.foreign_text import KNOWN, MAX_TEXT, RefuserKind, parse_refusal, passable_text
from tests.support.canaries import CANARY, FORMS, draw_quotation, find_forms

SECRETS = "/api/v1/namespaces/team/secrets"
WITH_DATA = {"kind": "Secret", "data": {"k": "eA=="}}
WEBHOOK = 'admission webhook "guard.example.com" denied the request: '
POLICY = "secrets \"s\" is forbidden: ValidatingAdmissionPolicy 'guard' with binding 'guard-binding' denied request: "
STATUSES = (400, 401, 403, 404, 409, 410, 413, 422, 429, 500, 503)
# Beginnings of the API server's messages, and the refuser of each. Any text may follow.
BEFORE = {
    WEBHOOK: (RefuserKind.WEBHOOK, 'admission webhook "guard.example.com"'),
    'admission webhook "guard.example.com" denied the request without explanation': (
        RefuserKind.WEBHOOK,
        'admission webhook "guard.example.com"',
    ),
    'Internal error occurred: failed calling webhook "guard.example.com": failed to call webhook: ': (
        RefuserKind.WEBHOOK_FAILED,
        'admission webhook "guard.example.com"',
    ),
    'admission webhook "guard.example.com" does not support dry run': (
        RefuserKind.WEBHOOK_NO_DRY_RUN,
        'admission webhook "guard.example.com"',
    ),
    POLICY: (RefuserKind.POLICY, "ValidatingAdmissionPolicy 'guard'"),
    "secrets \"s\" is forbidden: ValidatingAdmissionPolicy 'guard' denied request: ": (
        RefuserKind.POLICY,
        "ValidatingAdmissionPolicy 'guard'",
    ),
    "secrets \"s\" is forbidden: policy 'guard' with binding 'b' denied request: ": (
        RefuserKind.POLICY,
        "MutatingAdmissionPolicy 'guard'",
    ),
    'secrets "s" is forbidden: exceeded quota: small, requested: ': (RefuserKind.QUOTA, "ResourceQuota 'small'"),
    'secrets "s" is forbidden: failed quota: small: must specify ': (RefuserKind.QUOTA, "ResourceQuota 'small'"),
    'secrets is forbidden: User "system:serviceaccount:a:b" cannot create resource "secrets" in ': (
        RefuserKind.ROLE,
        "the Roles",
    ),
    'secrets "s" is forbidden: unable to create new content in namespace team because it is being terminated ': (
        RefuserKind.NAMESPACE,
        "the namespace, which is being deleted",
    ),
    'Secret "s" is invalid: data: Invalid value: ': (RefuserKind.API_SERVER, "the API server"),
    "": (RefuserKind.API_SERVER, "the API server"),
}


def pass_text(
    text: str, status: int = 403, reason: str = "Forbidden", method: str = "POST", body: Any = WITH_DATA
) -> str:
    path = SECRETS if method == "POST" else f"{SECRETS}/s"
    return passable_text(text, status, reason, method, path, body)


@pytest.mark.parametrize("before", BEFORE)
def test_refuser_is_named_by_the_beginning_of_the_message(before: str) -> None:
    by, name = BEFORE[before]
    assert (parse_refusal(before).by, parse_refusal(before).full_name) == (by, name)
    assert (parse_refusal(before + CANARY).by, parse_refusal(before + CANARY).full_name) == (by, name)
    if by is RefuserKind.ROLE:
        assert "no Role grants the right to create Secrets" in pass_text(before)
    elif by is not RefuserKind.NAMESPACE:
        assert name in pass_text(before)


@given(
    before=st.sampled_from(list(BEFORE)),
    text=st.text(max_size=50) | draw_quotation(),
    status=st.sampled_from(STATUSES),
    method=st.sampled_from(["POST", "PATCH", "PUT", "GET", "DELETE"]),
)
def test_message_does_not_depend_on_the_text_after_the_refuser(
    before: str, text: str, status: int, method: str
) -> None:
    message = pass_text(before + text, status, method=method)
    by_known = {pass_text(f"{before} {known}", status, method=method) for known in KNOWN}
    by_word = {pass_text(before + word, status, method=method) for word in ("", "AdmissionPolicy", "admission webhook")}
    assert message in by_known | by_word


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", STATUSES)
def test_no_form_of_a_value_is_passed_on(form: str, status: int) -> None:
    for before in BEFORE:
        for method, body in (("POST", WITH_DATA), ("PATCH", {}), ("PATCH", {"metadata": {}}), ("GET", None)):
            message = pass_text(f"{before}{{{FORMS[form](CANARY)}}}", status, method=method, body=body)
            assert not find_forms(message)
            assert f"(HTTP {status}, Forbidden)" in message


@pytest.mark.parametrize(
    "text",
    [
        'canary-51c0 admission webhook "canary-51c0" denied the request',
        "canary-51c0 ValidatingAdmissionPolicy 'canary-51c0' with binding 'canary-51c0' denied request",
        f"{WEBHOOK}exceeded quota: canary-51c0, requested: ",
        'admission webhook "CANARY canary-51c0" denied the request',
        f'admission webhook "{"c" * 300}" denied the request: canary-51c0',
    ],
)
def test_name_elsewhere_in_the_text_is_ignored(text: str) -> None:
    message = pass_text(text)
    assert "canary" not in message
    assert "ccc" not in message


def test_only_a_reason_of_kubernetes_is_passed_on() -> None:
    assert "(HTTP 418)" in pass_text("no", 418, "canary-51c0")
    assert "(HTTP 422, Invalid)" in pass_text("no", 422, "Invalid")


@pytest.mark.parametrize("known", KNOWN)
def test_known_words_are_passed_on(known: str) -> None:
    message = pass_text(f'secrets "s" is forbidden: {CANARY} {known} {CANARY}')
    assert message == f"the API server refused the Secret (HTTP 403, Forbidden): {known}"


@pytest.mark.parametrize("known", KNOWN)
def test_known_words_of_another_component_have_no_meaning(known: str) -> None:
    """A webhook can write `field is immutable`, too. The advice to delete the Secret would then be wrong."""
    assert known not in pass_text(f"{WEBHOOK}{known}")
    message = pass_text(f"{POLICY}{CANARY} {known} {CANARY}")
    assert (known in message) == (known == FOREIGN_SECRET)
    assert CANARY not in message


def test_text_without_secret_values_is_passed_on() -> None:
    """Use a Secret without data, like the one that probes the policies."""
    empty = {"kind": "Secret", "metadata": {"name": "probe"}, "type": "x"}
    assert pass_text(f"{POLICY}no", body=empty) == f"{POLICY}no"
    path = "/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/team/secretsyncs/s/status"
    assert passable_text(f"{WEBHOOK}no", 403, "Forbidden", "PATCH", path, {"status": {}}) == f"{WEBHOOK}no"
    assert len(passable_text("x" * 10**5, 403, "", "GET", path, None)) == MAX_TEXT
