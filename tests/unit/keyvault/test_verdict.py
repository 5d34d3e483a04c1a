"""Test the meaning of each answer of a vault, and whether the request is repeated."""

import itertools
from types import SimpleNamespace
from typing import cast

import pytest

from controller.domain.provider_class import VaultObject
from controller.errors import ObjectError, ObjectGone, Retry
from controller.keyvault.errors import VaultAddress, VaultRefusal, explain_refusal
from controller.keyvault.objects import ObjectClient
from controller.keyvault.verdict import Loss, Meaning, Verdict, judge_attempt

UNKNOWN_VERSION = "The specified version (2026-04-01) is not recognized."
# For each result: the verdict for an object, and for a list of objects. "!" means that it lasts, "+" a retry.
MEANINGS = {
    "A": Meaning.ANSWER,
    "O": Meaning.OBJECT_FAILURE,
    "I": Meaning.IDENTITY_FAILURE,
    "V": Meaning.VAULT_FAILURE,
    "T": Meaning.THROTTLED,
}


def parse_verdict(text: str) -> Verdict:
    """Return the verdict of a cell of the table."""
    return Verdict(MEANINGS[text[0]], lasts="!" in text, retry="+" in text)


def make_refusal(status: int, *codes: str, text: str = "", retry_after: float | None = None) -> VaultRefusal:
    return VaultRefusal(status, codes, text, retry_after)


TABLE = [
    (None, "A", "A"),
    (Loss.NOT_CONNECTED, "V+", "V+"),
    (Loss.NOT_CONNECTED_IN_TIME, "V", "V"),
    (Loss.CUT_OFF, "O+", "V+"),
    (Loss.TIMED_OUT, "O", "V"),
    (Loss.UNREADABLE, "A", "V+"),
    *((make_refusal(status), "O+", "V+") for status in (0, 199)),
    *((make_refusal(status), "A", "V+") for status in (200, 202, 204, 299)),
    *((make_refusal(status), "O+", "V+") for status in (301, 302, 304, 308, 408, 500, 501, 502, 503, 504, 520, 599)),
    (make_refusal(503, retry_after=7), "O", "V"),
    (make_refusal(302, retry_after=7), "O", "V"),
    *((make_refusal(status), "A", "V!") for status in (400, 402, 404, 405, 409, 410, 413, 418, 423, 431, 451, 499)),
    (make_refusal(404, "SecretNotFound"), "A", "V!"),
    (make_refusal(409, "Conflict", "ObjectIsDeletedButRecoverable"), "A", "V!"),
    (make_refusal(400, "BadParameter", text=UNKNOWN_VERSION), "V!", "V!"),
    (make_refusal(404, "BadParameter", text=UNKNOWN_VERSION), "A", "V!"),
    (make_refusal(401), "I+", "I+"),
    (make_refusal(401, "Unauthorized", text="AKV10046: x"), "I+", "I+"),
    (make_refusal(401, "Unauthorized", text="IDX10223: x"), "I+", "I+"),
    (make_refusal(401, retry_after=7), "I", "I"),
    (make_refusal(401, "Unauthorized", text="AKV10032: x"), "I!", "I!"),
    (make_refusal(401, "Unauthorized", text="AKV10022: x"), "I!", "I!"),
    *((make_refusal(403, "Forbidden", code), "V!", "V!") for code in ("ForbiddenByFirewall", "ForbiddenByConnection")),
    *(
        (make_refusal(403, "Forbidden", code), "V!", "V!")
        for code in ("ForbiddenByNsp", "NetworkSecurityPerimeterDenied")
    ),
    *(
        (make_refusal(403, "Forbidden", code), "A", "A")
        for code in ("ForbiddenByRbac", "ForbiddenByPolicy", "AccessDenied")
    ),
    *((make_refusal(403, "Forbidden", code), "A", "A") for code in ("SecretDisabled", "CertificateDisabled", "Other")),
    # A disabled object is reported first, even if a network rule refuses every request.
    *((make_refusal(403, code, "SecretDisabled"), "A", "V!") for code in ("ForbiddenByFirewall", "ForbiddenByNsp")),
    (make_refusal(403), "A", "A"),
    (make_refusal(429), "T", "T"),
    (make_refusal(429, retry_after=7), "T", "T"),
]


@pytest.mark.parametrize(("result", "of_object", "of_list"), TABLE)
def test_each_answer_has_a_meaning(result: VaultRefusal | Loss | None, of_object: str, of_list: str) -> None:
    assert judge_attempt(result, has_object=True, retries_left=1) == parse_verdict(of_object)
    assert judge_attempt(result, has_object=False, retries_left=1) == parse_verdict(of_list)


@pytest.mark.parametrize(("result", "of_object", "of_list"), TABLE)
def test_nothing_is_requested_again_without_retries_left(
    result: VaultRefusal | Loss | None, of_object: str, of_list: str
) -> None:
    for has_object, cell in ((True, of_object), (False, of_list)):
        assert judge_attempt(result, has_object=has_object, retries_left=0) == parse_verdict(cell.replace("+", ""))


CODES = [
    (),
    ("Forbidden",),
    *(
        ("Forbidden", inner)
        for inner in (
            "ForbiddenByRbac",
            "ForbiddenByFirewall",
            "ForbiddenByConnection",
            "ForbiddenByPolicy",
            "ForbiddenByNsp",
            "AccessDenied",
            "SecretDisabled",
            "Other",
        )
    ),
]


def test_error_names_the_object_only_if_the_answer_is_about_that_object() -> None:
    """The text of an error is chosen in another module than its meaning, so compare them for many answers."""
    address, user = VaultAddress("shop", "https://shop"), VaultObject(name="user")
    source = cast(
        "ObjectClient", SimpleNamespace(plural="secrets", role="a role", disabled=lambda _: ObjectGone("off"))
    )
    texts = ("", UNKNOWN_VERSION, "AKV10032: x", "AKV10046: x")
    answers = [
        *itertools.starmap(VaultRefusal, itertools.product(range(200, 600), CODES, texts)),
        *(VaultRefusal(status, is_page=True) for status in range(200, 600)),
    ]
    for answer, found in itertools.product(answers, (user, None)):
        error = explain_refusal(answer, address, "client", source, "get" if found else "list", found)
        meaning = judge_attempt(answer, has_object=found is not None, retries_left=1).meaning
        assert isinstance(error, ObjectError) == (meaning is Meaning.ANSWER), answer
        assert (error.retry is Retry.THROTTLED) == (meaning is Meaning.THROTTLED)
