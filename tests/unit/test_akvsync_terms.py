"""What an AKVSync says of its parts names the AKVSync's own fields."""

import re

import pytest

from controller import secret_limits
from controller.akvsync_terms import in_akvsync_terms
from controller.errors import ControllerError, ObjectError
from controller.plan import foreign, mistake, partial_message
from tests.unit.objects_of import sync

# Words of the kinds that the user of an AKVSync did not write.
THEIRS = re.compile(
    r"SecretSync|SecretProviderClass|secretObject|sourcePath|targetKey|objectName|objectType|objectVersion"
)
MISSING = (
    "secret a is not in Key Vault shop; create or recover it there, or correct objectName, objectType or objectVersion"
)


def said(error: ControllerError | None) -> str:
    assert error
    return error.message


MESSAGES = [
    said(foreign(sync())),
    said(mistake(sync(["user"], type="kubernetes.io/tls"))),
    said(mistake(sync(["user"], type="kubernetes.io/basic-auth"))),
    said(mistake(sync(["..a"]))),
    secret_limits.violation({"a b": ""}, {}) or "",
    secret_limits.violation({}, {"a b": ""}) or "",
    MISSING,
    "secretObject.type is 'example.com/own': accepted are Opaque",
    "SecretProviderClass shop: clientID is missing",
    "secret a has 1 enabled version(s) in Key Vault shop, so 2 is not there; add versions or take the key out of the"
    " SecretSync",
    "the values have 2000000 bytes and a Secret holds at most 1048576; split the SecretSync (the largest key is v0)",
    partial_message({key: ObjectError(MISSING) for key in "abcde"}, {key: key for key in "abcdef"}),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_message_names_no_field_of_another_kind(message: str) -> None:
    assert THEIRS.search(message) or "clientID" in message
    assert not THEIRS.search(in_akvsync_terms(message))


def test_failing_keys_become_a_sentence() -> None:
    failed = {key: ObjectError(f"secret {key} is not there") for key in "abcde"}
    text = in_akvsync_terms(partial_message(failed, {key: key for key in "abcdef"}))
    assert text.startswith("a: secret a is not there; b: secret b is not there; c: secret c is not there (and 2 more")


@pytest.mark.parametrize("message", ["[{", "[{}]", '[{"status":"failed"}]', "4 keys written from Key Vault shop"])
def test_any_other_message_stays_readable(message: str) -> None:
    assert isinstance(in_akvsync_terms(message), str)
