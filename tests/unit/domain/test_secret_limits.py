"""Compare the limits of a Secret's labels, annotations and keys with the rules of apimachinery."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.domain.decision import find_spec_mistake
from controller.domain.secret_limits import find_violation, key_violation
from tests.support.builders import make_sync

# Written as apimachinery writes them, independently of the module.
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


@pytest.mark.parametrize("key", [".", "..", "..a", "a/b", "", "a b", "a\n", "a" * 254])
def test_refused_key(key: str) -> None:
    assert key_violation(key)


@pytest.mark.parametrize("key", [".a", "a..", "a.b_c-D", "_", "-", "a" * 253])
def test_accepted_key(key: str) -> None:
    assert key_violation(key) is None


def test_message_quotes_little() -> None:
    assert len(find_violation({"k": "v" * 10**6}, {}) or "") < 400
    assert len(key_violation("k" * 10**6) or "") < 400


def test_secretsync_with_such_a_label_is_a_mistake() -> None:
    found = find_spec_mistake(make_sync(labels={"a b": "x"}))
    assert found
    assert found.message.startswith("secretObject.labels: the key 'a b'")
