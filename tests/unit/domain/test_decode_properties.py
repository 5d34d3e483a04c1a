"""Test the value of a key that names a property, a login or a chain, and the keys of an expanded object."""

import base64
import json
from typing import Any

import pytest

from controller.domain import decode_values as decode_values_module
from controller.domain import properties
from controller.domain.decode_values import decode_values, flatten_expanded, needs_bundle, value_warnings
from controller.domain.properties import Node
from controller.domain.provider_class import EXPANDED_SUFFIX, ObjectPart, ObjectVersionRef, VaultObject
from controller.domain.values import ExpandedValues, SecretBytes, Unchanged, VaultValue
from controller.errors import ControllerError, ObjectError, UnusableValue
from tests.support.certificates import NOON, encode_pfx, issue_certificate
from tests.support.messages import NEITHER_PEM_NOR_PFX

ROOT = issue_certificate("root", ca=True)
ISSUING = issue_certificate("issuing", ROOT, ca=True)
LEAF = issue_certificate("web", ISSUING)
SELF_SIGNED = issue_certificate("alone")
CANARY = "canary-02bd"


def make_fetched(value: str | bytes, **more: Any) -> VaultValue:
    return VaultValue(value=SecretBytes(value.encode() if isinstance(value, str) else value), version="v1", **more)


def decode_keys(value: str | bytes, wanted: dict[str, ObjectVersionRef]) -> dict[str, Any]:
    """Return the bytes that each key gets from one object with this value, or the message of its error."""
    found = flatten_expanded(
        wanted, decode_values("shop", wanted, {item.whole: make_fetched(value) for item in wanted.values()}, NOON)
    )
    return {key: get_bytes_or_message(item) for key, item in found.items()}


def get_bytes_or_message(item: VaultValue | Unchanged | ControllerError) -> Any:
    if isinstance(item, VaultValue):
        return item.value.reveal()
    return item.message if isinstance(item, ControllerError) else item


def decode_key(value: str | bytes, part: ObjectPart = ObjectPart.WHOLE, **item: Any) -> Any:
    return decode_keys(value, {"k": ObjectVersionRef(VaultObject(name="web", **item), 0, part)})["k"]


def expand_value(value: str | bytes, **item: Any) -> dict[str, Any]:
    return decode_keys(value, {"k" + EXPANDED_SUFFIX: ObjectVersionRef(VaultObject(name="web", expand=True, **item))})


STORE = json.dumps(
    {"b64": base64.b64encode(b"\xfe\x00store").decode(), "hex": "00ff", "pem": LEAF.key_pem + LEAF.pem + ISSUING.pem,
     "pfx": encode_pfx(LEAF.key, [LEAF, ISSUING]), "login": "me:pw", "n": 1.10}
)  # fmt: skip


@pytest.mark.parametrize(
    ("part", "item", "expected"),
    [
        (ObjectPart.WHOLE, {"property_path": "b64", "encoding": "base64"}, b"\xfe\x00store"),
        (ObjectPart.WHOLE, {"property_path": "hex", "encoding": "hex"}, b"\x00\xff"),
        (ObjectPart.WHOLE, {"property_path": "n"}, b"1.1"),
        (ObjectPart.WHOLE, {"property_path": "pem"}, (LEAF.key_pem + LEAF.pem + ISSUING.pem).encode()),
        (ObjectPart.CERTIFICATES, {"property_path": "pem"}, (LEAF.pem + ISSUING.pem).encode()),
        (ObjectPart.CERTIFICATES, {"property_path": "pfx"}, (LEAF.pem + ISSUING.pem).encode()),
        (ObjectPart.ISSUERS, {"property_path": "pfx", "encoding": "base64"}, ISSUING.pem.encode()),
        (ObjectPart.USERNAME, {"property_path": "login"}, b"me"),
        (ObjectPart.PASSWORD, {"property_path": "login"}, b"pw"),
    ],
)
def test_property_is_decoded_before_its_part_is_extracted(
    part: ObjectPart, item: dict[str, Any], expected: bytes
) -> None:
    assert decode_key(STORE, part, **item) == expected


def test_property_of_a_certificate_is_unchanged() -> None:
    text = LEAF.key_pem + ISSUING.pem + LEAF.pem
    found = make_fetched(json.dumps({"pem": text}), content_type="application/x-pem-file", of_certificate=True)
    wanted = {"k": ObjectVersionRef(VaultObject(name="web", property_path="pem"))}
    decoded = decode_values("shop", wanted, {wanted["k"].whole: found}, NOON)["k"]
    assert isinstance(decoded, VaultValue)
    assert decoded.value.reveal() == text.encode()


def test_error_of_one_property_does_not_affect_the_others() -> None:
    wanted = {
        key: ObjectVersionRef(VaultObject(name="web", alias=f"web_{key}", property_path=key))
        for key in ("n", "nope", "hex")
    }
    found = decode_keys(STORE, wanted)
    assert (found["n"], found["hex"]) == (b"1.1", b"00ff")
    assert "no property 'nope'; the value has: b64, hex, pem, pfx, login, n" in found["nope"]


def test_wrong_encoding_of_a_property_quotes_nothing() -> None:
    message = decode_key(json.dumps({"a": CANARY + "!"}), property_path="a", encoding="base64")
    assert "is not base64, as objectEncoding says" in message
    assert CANARY not in message


@pytest.mark.parametrize(
    ("value", "username", "password"),
    [
        ("me:pw", "me", "pw"),
        ("me:p:w:", "me", "p:w:"),
        (":token", "", "token"),
        ("me:", "me", ""),
        ("me:pw\n", "me", "pw\n"),
        ('{"username": "me", "password": "p\\"w", "url": "x"}', "me", 'p"w'),
        ('\n {"password": 1.10, "username": true}', "true", "1.10"),
        ('\ufeff{"username": "me", "password": "pw"}', "me", "pw"),
        ("username:pw", "username", "pw"),
        ("username: me\npassword: pw\n", "me", "pw"),
        ("user: pw", "user", " pw"),
        ("{odd:pw", "{odd", "pw"),
        ("http://x:pw", "http", "//x:pw"),
    ],
)
def test_login_is_split(value: str, username: str, password: str) -> None:
    assert decode_key(value, ObjectPart.USERNAME) == username.encode()
    assert decode_key(value, ObjectPart.PASSWORD) == password.encode()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            CANARY,
            "is not a login: write user:password into the vault, or JSON with the properties username and password",
        ),
        (json.dumps({"user": CANARY}), "no property 'username'; the value has: user"),
        (f'\ufeff{{"user": "{CANARY}", "password": "x"}}', "no property 'username'; the value has: user, password"),
        (f"password: {CANARY}\nuser: me\n", "no property 'username'; the value has: password, user"),
        (f'\n{{ "username": "{CANARY}", "password": "x"', "is neither JSON nor YAML"),
        (f'\ufeff{{"username": "{CANARY}"', "is neither JSON nor YAML"),
        (f'{{"username": "{CANARY}", "password": "x", "password": "y"}}', "has the property 'password' more than once"),
    ],
)
def test_value_that_is_not_a_login_is_refused(value: str, words: str) -> None:
    message = decode_key(value, ObjectPart.USERNAME)
    assert words in message
    assert message.startswith("secret web in Key Vault shop")
    assert CANARY not in message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (LEAF.key_pem + LEAF.pem + ISSUING.pem + ROOT.pem, ISSUING.pem + ROOT.pem),
        (ROOT.pem + LEAF.pem + ISSUING.pem + LEAF.key_pem, ISSUING.pem + ROOT.pem),
        (LEAF.key_pem + LEAF.pem + ISSUING.pem, ISSUING.pem),
        (encode_pfx(LEAF.key, [LEAF, ROOT, ISSUING]), ISSUING.pem + ROOT.pem),
        (LEAF.key_pem + LEAF.pem + ISSUING.pem + SELF_SIGNED.pem, ISSUING.pem),
    ],
)
def test_chain_does_not_contain_the_leaf(value: str, expected: str) -> None:
    assert decode_key(value, ObjectPart.ISSUERS) == expected.encode()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (LEAF.key_pem + LEAF.pem, "the leaf alone, without the certificate of its issuer"),
        (
            issue_certificate("self", ca=True).key_pem + issue_certificate("self", ca=True).pem,
            "none of its certificates belongs",
        ),
        (SELF_SIGNED.key_pem + SELF_SIGNED.pem, "self-signed"),
        (LEAF.key_pem + LEAF.pem + ROOT.pem, "none of its other 1 certificate(s) issued its leaf"),
        (LEAF.key_pem, "holds no certificate"),
        ("x", NEITHER_PEM_NOR_PFX),
    ],
)
def test_certificate_without_a_chain_is_reported(value: str, words: str) -> None:
    wanted = {
        key: ObjectVersionRef(VaultObject(name="web"), 0, part)
        for key, part in (
            ("ca.crt", ObjectPart.ISSUERS),
            ("tls.crt", ObjectPart.CERTIFICATES),
            ("tls.key", ObjectPart.TLS_KEY),
        )
    }
    found = decode_keys(value, wanted)
    assert words in found["ca.crt"]
    if words.startswith(("the leaf", "self-signed", "none of its other")):
        assert isinstance(found["tls.crt"], bytes)
        assert isinstance(found["tls.key"], bytes)


def test_500_properties_become_keys() -> None:
    assert len(expand_value(json.dumps({f"k{number}": 0 for number in range(500)}))) == 500


def test_every_property_becomes_a_key() -> None:
    found = expand_value('{"user": "me", "port": 5432, "tls": true, "hosts": ["a", "b"], "tls.crt": "PEM"}')
    assert found == {"user": b"me", "port": b"5432", "tls": b"true", "hosts": b'["a","b"]', "tls.crt": b"PEM"}


def test_properties_below_a_path_become_keys() -> None:
    assert expand_value('{"db": {"user": "me"}, "x": 1}', property_path="db") == {"user": b"me"}


def test_property_name_that_is_not_a_key_is_reported_and_others_expand() -> None:
    found = expand_value(json.dumps({"a b": CANARY, "ok": 1, "..": CANARY, "x" * 254: CANARY, "": CANARY, "k": 2}))
    message = found.pop("k" + EXPANDED_SUFFIX)
    assert found == {"ok": b"1", "k": b"2"}
    assert message.startswith(
        "secret web in Key Vault shop has properties whose names cannot be keys of a Secret; rename them, or map them"
        " by themselves: a b, "
    )
    assert CANARY not in message
    assert len(message) < 300


def test_property_that_is_not_a_text_is_reported_and_others_expand() -> None:
    found = expand_value('{"bad": "\\ud800", "ok": 1}')
    assert "bad" in found.pop("k" + EXPANDED_SUFFIX)
    assert found == {"ok": b"1"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{}", "has no properties: it is an empty object"),
        ("[1]", "has no properties"),
        (CANARY, "has no properties: it is a text"),
        (
            json.dumps({f"k{number}": 0 for number in range(501)}),
            "secret web in Key Vault shop has 501 properties, and at most 500 become keys; map single ones instead",
        ),
        (f'{{"a": "{CANARY}", "a": 1}}', "more than once"),
    ],
)
def test_value_that_cannot_be_expanded_fails_as_a_whole(value: str, words: str) -> None:
    found = expand_value(value)
    assert list(found) == ["k" + EXPANDED_SUFFIX]
    assert words in found["k" + EXPANDED_SUFFIX]
    assert CANARY not in found["k" + EXPANDED_SUFFIX]


def test_explicitly_mapped_key_is_not_replaced_by_a_property() -> None:
    web = ObjectVersionRef(VaultObject(name="web", alias="all", expand=True))
    found = decode_keys(
        '{"user": "me", "pw": 1}', {"x" + EXPANDED_SUFFIX: web, "user": ObjectVersionRef(VaultObject(name="web"))}
    )
    assert found["user"] == b'{"user": "me", "pw": 1}'
    assert found["pw"] == b"1"
    assert found["x" + EXPANDED_SUFFIX] == "properties are mapped twice; rename or unmap them: user"


def test_properties_of_one_value_are_expanded_once() -> None:
    """Thousands of keys can name one object, each with 500 properties: more than the controller's memory."""
    document = '{"a": {"b": {"x": 1}}, "c": 2}'
    paths = ("", "a", "a.b", r"\a.b", ".a.b", "")
    wanted = {
        f"k{number}/*": ObjectVersionRef(VaultObject(name="web", alias=f"k{number}", expand=True, property_path=path))
        for number, path in enumerate(paths)
    }
    again = "secret web in Key Vault shop: targetKey {} makes keys of the same properties already; remove this one"
    assert decode_keys(document, wanted) == {
        "a": b'{"b":{"x":1}}',
        "c": b"2",
        "b": b'{"x":1}',
        "x": b"1",
        "k3/*": again.format("k2"),
        "k4/*": again.format("k2"),
        "k5/*": again.format("k0"),
    }


def test_property_of_the_first_of_two_expanded_items_is_used() -> None:
    first, second, third = make_fetched("1"), make_fetched("2", updated=NOON), make_fetched("3")
    items = {"x/*": {"a": first}, "y/*": {"a": second, "b": second}, "z/*": {"c": third}}
    found = flatten_expanded(items, {key: ExpandedValues(properties) for key, properties in items.items()})
    error = found.pop("y/*")
    assert found == {"a": first, "b": second, "c": third}
    assert isinstance(error, UnusableValue)
    assert (error.message, error.version, error.updated) == (
        "properties are mapped twice; rename or unmap them: a",
        "v1",
        "2030-01-01T12:00:00Z",
    )


def test_unchanged_property_that_is_mapped_twice_is_reported() -> None:
    decoded: dict[str, ExpandedValues | Unchanged] = {
        "x/*": ExpandedValues({"a": Unchanged(), "b": Unchanged()}),
        "a": Unchanged(),
    }
    found = flatten_expanded(["a", "x/*"], decoded)
    error = found.pop("x/*")
    assert found == {"a": Unchanged(), "b": Unchanged()}
    assert isinstance(error, UnusableValue)
    assert (error.message, error.version, error.updated) == (
        "properties are mapped twice; rename or unmap them: a",
        "",
        "",
    )


def test_document_is_parsed_once_for_all_its_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def read_document(data: bytes, noun: str) -> Node:
        parsed.append(data)
        return properties.read_document(data, noun)

    monkeypatch.setattr(decode_values_module, "read_document", read_document)
    wanted = {key: ObjectVersionRef(VaultObject(name="web", alias=key, property_path=key)) for key in ("hex", "n")}
    wanted |= {"k/*": ObjectVersionRef(VaultObject(name="web", expand=True))}
    for value in (STORE, "{"):
        assert set(decode_keys(value, wanted)) >= {"hex", "n"}
        assert parsed == [value.encode()]
        parsed.clear()


def test_unchanged_properties_stay_unchanged() -> None:
    found = flatten_expanded(
        ["x" + EXPANDED_SUFFIX, "y"],
        {"x" + EXPANDED_SUFFIX: ExpandedValues({"a": Unchanged(), "b": Unchanged()}), "y": Unchanged()},
    )
    assert found == {"a": Unchanged(), "b": Unchanged(), "y": Unchanged()}


def test_expanded_object_outside_its_dates_is_warned_of_once() -> None:
    wanted = {"k" + EXPANDED_SUFFIX: ObjectVersionRef(VaultObject(name="web", expand=True))}
    read = {item.whole: make_fetched('{"a": 1, "b": 2}', expires=NOON) for item in wanted.values()}
    found = flatten_expanded(wanted, decode_values("shop", wanted, read, NOON))
    assert len(value_warnings("shop", wanted, found)) == 1


def test_pfx_is_not_opened_for_a_plain_property() -> None:
    found = make_fetched(LEAF.pem, content_type="application/x-pkcs12", of_certificate=True)
    assert needs_bundle(ObjectVersionRef(VaultObject(name="web")), found)
    assert needs_bundle(ObjectVersionRef(VaultObject(name="web", property_path="a")), found) is False
    assert needs_bundle(ObjectVersionRef(VaultObject(name="web", expand=True)), found) is False
    assert needs_bundle(ObjectVersionRef(VaultObject(name="web"), 0, ObjectPart.PASSWORD), found) is False
    assert needs_bundle(ObjectVersionRef(VaultObject(name="web", property_path="a"), 0, ObjectPart.ISSUERS), found)


def test_one_value_serves_every_alias() -> None:
    aliased = [VaultObject(name="web", alias=alias, property_path=alias) for alias in ("a", "b")]
    assert len({ObjectVersionRef(item).whole for item in (VaultObject(name="web"), *aliased)}) == 1


def test_error_of_the_vault_is_the_error_of_each_key() -> None:
    wanted = {"k" + EXPANDED_SUFFIX: ObjectVersionRef(VaultObject(name="web", expand=True))}
    error = ObjectError("secret web is disabled")
    assert decode_values("shop", wanted, {item.whole: error for item in wanted.values()}, NOON) == {
        "k" + EXPANDED_SUFFIX: error
    }
