"""Compare the limits of a Secret's labels, annotations and keys with the rules of apimachinery."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.domain.decision import find_spec_mistake
from controller.domain.secret_limits import find_violation, key_violation
from tests.support.builders import make_sync

# The patterns of apimachinery, written independently of the tested module.
QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)"
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
TEXTS = st.text(st.sampled_from("aZ0-_./ \nä"), max_size=8) | st.sampled_from(["a" * 63, "a" * 64, "a.b/" + "c" * 64])


@given(key=TEXTS, value=TEXTS)
def test_labels_are_accepted_where_kubernetes_accepts_them(key: str, value: str) -> None:
    accepted = bool(QUALIFIED.fullmatch(key) and LABEL_VALUE.fullmatch(value))
    assert (find_violation({key: value}, {}) is None) is accepted


@given(key=TEXTS, value=st.text())
def test_annotations_are_accepted_where_kubernetes_accepts_them(key: str, value: str) -> None:
    assert (find_violation({}, {key: value}) is None) is bool(QUALIFIED.fullmatch(key.lower()))


@pytest.mark.parametrize(
    ("prefix", "accepted"),
    [("a" * 253, True), ("a" * 254, False), ("A.example", False), ("", False), ("a..b", False), ("-a", False)],
)
def test_prefix_of_label_key(prefix: str, accepted: bool) -> None:
    assert (find_violation({f"{prefix}/x": ""}, {}) is None) is accepted


@pytest.mark.parametrize(
    ("key", "accepted"),
    [
        ("i.example/x", True),
        ("I.Example/X", True),
        pytest.param("\u0130/x", True, id="capital i with a dot"),
        pytest.param("\u0131/x", False, id="small i without a dot"),
    ],
)
def test_prefix_of_annotation_key_is_checked_in_lower_case(key: str, accepted: bool) -> None:
    assert (find_violation({}, {key: ""}) is None) is accepted


NAME_RULE = (
    "write at most 63 letters, digits, - . and _, with a letter or digit at both ends; before it, where needed, a DNS"
    " name and a slash"
)


@pytest.mark.parametrize(
    ("labels", "annotations", "message"),
    [
        ({"ok": "x", "a b": "x"}, {}, f"secretObject.labels: the key 'a b' is not a label's key: {NAME_RULE}"),
        (
            {"a": "x y"},
            {},
            "secretObject.labels: the value 'x y' of 'a' is not a label's value: write at most 63 letters, digits, -"
            " . and _, with a letter or digit at both ends, or empty; an annotation may have any text",
        ),
        ({}, {"a b": "x"}, f"secretObject.annotations: the key 'a b' is not an annotation's key: {NAME_RULE}"),
    ],
)
def test_message_names_the_field_and_what_to_write(
    labels: dict[str, str], annotations: dict[str, str], message: str
) -> None:
    assert find_violation(labels, annotations) == message


@pytest.mark.parametrize(
    ("key", "message"),
    [
        *((key, "keys have letters, digits, - . and _ only") for key in ("a/b", "", "a b", "a\n")),
        *((key, "key is not a single dot and does not begin with two dots") for key in (".", "..", "..a")),
    ],
)
def test_invalid_key_is_refused(key: str, message: str) -> None:
    assert key_violation(key) == f"targetKey {key}: a Secret's {message}"


def test_too_long_key_is_refused() -> None:
    assert key_violation("a" * 254) == f"targetKey {'a' * 77}...: a Secret's key has at most 253 characters"


@pytest.mark.parametrize(("text", "quoted"), [(" " * 80, " " * 80), (" " * 81, " " * 77 + "...")])
def test_message_quotes_at_most_80_characters(text: str, quoted: str) -> None:
    assert f"targetKey {quoted}: " in (key_violation(text) or "")
    assert f"the key '{quoted}' is" in (find_violation({text: ""}, {}) or "")


@pytest.mark.parametrize("key", [".a", "a..", "a.b_c-D", "_", "-", "a" * 253])
def test_valid_key_is_accepted(key: str) -> None:
    assert key_violation(key) is None


def test_message_about_a_long_text_is_short() -> None:
    assert len(find_violation({"k": "v" * 10**6}, {}) or "") < 400
    assert len(key_violation("k" * 10**6) or "") < 400


def test_invalid_label_of_a_secretsync_is_a_mistake() -> None:
    found = find_spec_mistake(make_sync(labels={"a b": "x"}))
    assert found
    assert found.message.startswith("secretObject.labels: the key 'a b'")
