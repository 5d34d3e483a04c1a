"""Test that messages in the status of an AKVSync name only fields of the AKVSync."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import controller
from controller.akvsync.terms import in_akvsync_terms
from controller.domain import secret_limits
from controller.domain.decision import find_spec_mistake, foreign_error, partial_message
from controller.errors import ControllerError, ObjectError
from tests.support.builders import make_sync

# Words of the generated kinds, which users of an AKVSync do not write.
OTHER_KINDS = re.compile(
    r"SecretSync|[sS]ecretProviderClass|secretObject|sourcePath|targetKey"
    r"|object(Name|Alias|Type|Version|Format|Encoding|Property|Expand)"
)
MISSING = (
    "secret a is not in Key Vault shop; create or recover it there, or correct objectName, objectType or objectVersion"
)


def get_message(error: ControllerError | None) -> str:
    assert error
    return error.message


MESSAGES = [
    get_message(foreign_error(make_sync())),
    get_message(find_spec_mistake(make_sync(["user"], type="kubernetes.io/tls"))),
    get_message(find_spec_mistake(make_sync(["user"], type="kubernetes.io/basic-auth"))),
    get_message(find_spec_mistake(make_sync(["..a"]))),
    secret_limits.find_violation({"a b": ""}, {}) or "",
    secret_limits.find_violation({}, {"a b": ""}) or "",
    MISSING,
    "secretObject.type is 'example.com/own': accepted are Opaque",
    "SecretProviderClass shop: clientID is missing",
    "secret a has 1 enabled version(s) in Key Vault shop, so 2 is not there; add versions or take the key out of the"
    " SecretSync",
    "the values have 2000000 bytes, and a Secret can have at most 1048576; split the SecretSync (the largest key is"
    " v0)",
    partial_message({key: ObjectError(MISSING) for key in "abcde"}, {key: key for key in "abcdef"}),
]


# The packages that write messages into the status of a SecretSync.
PACKAGES = ("domain", "keyvault", "secretsync", "runtime")
# These write metrics, log lines and documentation, and no status.
MODULES_WITHOUT_STATUS = {"budgets.py", "collector.py", "status_reporter.py"}


def find_sentences(source: str) -> Iterator[str]:
    """Yield the sentences of a module, with a word for each value in them."""
    nodes = list(ast.walk(ast.parse(source)))
    parts = {
        child for node in nodes if isinstance(node, ast.JoinedStr | ast.Expr) for child in ast.iter_child_nodes(node)
    }
    for node in nodes:
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "-v-" for part in node.values)
        elif isinstance(node, ast.Constant) and node not in parts:
            text = node.value if isinstance(node.value, str) else ""
        if " " in text and OTHER_KINDS.search(text):
            yield text


SENTENCES = sorted(
    {
        text
        for package in PACKAGES
        for module in Path(controller.__file__).parent.joinpath(package).rglob("*.py")
        if module.name not in MODULES_WITHOUT_STATUS
        for text in find_sentences(module.read_text())
    }
)


def test_sentences_of_the_source_are_found() -> None:
    assert len(SENTENCES) > 30
    assert any("create it or correct secretProviderClassName" in text for text in SENTENCES)
    assert any("exchange the two sourcePaths" in text for text in SENTENCES)


@pytest.mark.parametrize("message", SENTENCES)
def test_no_sentence_of_the_source_names_a_field_of_another_kind(message: str) -> None:
    assert not OTHER_KINDS.search(in_akvsync_terms(message))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "there is no SecretProviderClass shop in namespace team; create it or correct secretProviderClassName",
            "an object that the controller generates from this AKVSync is missing; the controller creates it again",
        ),
        (
            "annotation azure.workload.identity/client-id of ServiceAccount x is missing: correct it, or set the"
            " SecretProviderClass's clientID",
            "annotation azure.workload.identity/client-id of ServiceAccount x is missing: correct it, or set clientID",
        ),
        (
            "certificate web in Key Vault shop cannot be read; import the certificate again, or write objectFormat: pfx"
            " to have the PFX as it is",
            "certificate web in Key Vault shop cannot be read; import the certificate again",
        ),
        (
            "secret a in Key Vault shop holds no certificate; import one there, or correct the sourcePath",
            "secret a in Key Vault shop holds no certificate; import one there, or correct secretInAKV or certInAKV",
        ),
        (
            "secretObject.labels: the controller does not write the label 'x', because other tools obey it; remove it",
            "labels: the controller does not write the label 'x', because other tools obey it; remove it",
        ),
        (
            "a Secret's name must not begin with a: rename the SecretSync",
            "a Secret's name must not begin with a: set another kubernetesSecretName",
        ),
        (
            "the Secret s of an earlier SecretSync of this name still exists; check its finalizers",
            "the Secret s of an earlier object of this name still exists; check its finalizers",
        ),
        (
            "secret a has no enabled version 1 in Key Vault shop; correct objectVersion or remove it",
            "secret a has no enabled version 1 in Key Vault shop; correct version",
        ),
        (
            "secret a has more versions than the controller reads in Key Vault shop; take objectVersionHistory out",
            "secret a has more versions than the controller reads in Key Vault shop; lower versionHistory",
        ),
        (
            "Key Vault shop refuses to read secret a (HTTP 400); correct objectName or objectType",
            "Key Vault shop refuses to read secret a (HTTP 400); correct secretInAKV or certInAKV",
        ),
        (
            "namespace team has used its 6 seconds for reading SecretProviderClasses and certificates",
            "namespace team has used its 6 seconds for reading AKVSyncs and certificates",
        ),
        (
            "type kubernetes.io/tls needs the key tls.crt: map it in secretObject.data",
            "kubernetesSecretType kubernetes.io/tls needs the key tls.crt: map it in mapping",
        ),
        (
            "sourcePath a: the SecretProviderClass has no such object; it has: b",
            "object a: the AKVSync has no such object; it has: b",
        ),
    ],
)
def test_sentence_says_what_the_user_of_an_akvsync_can_write(message: str, expected: str) -> None:
    assert in_akvsync_terms(message) == expected


@pytest.mark.parametrize("message", MESSAGES)
def test_message_names_no_field_of_another_kind(message: str) -> None:
    assert OTHER_KINDS.search(message) or "clientID" in message
    assert not OTHER_KINDS.search(in_akvsync_terms(message))


def test_failing_keys_become_a_sentence() -> None:
    failed = {key: ObjectError(f"secret {key} is not there") for key in "abcde"}
    text = in_akvsync_terms(partial_message(failed, {key: key for key in "abcdef"}))
    assert text.startswith("a: secret a is not there; b: secret b is not there; c: secret c is not there (and 2 more")


@pytest.mark.parametrize("message", ["[{", "[{}]", '[{"status":"failed"}]', "4 keys written from Key Vault shop"])
def test_any_other_message_is_returned_as_text(message: str) -> None:
    assert isinstance(in_akvsync_terms(message), str)
