"""Compare the controller's limits for a Secret's metadata, keys and values with a real API server."""

import base64
import random
from collections.abc import Iterator
from typing import Any

import pytest

from controller.domain.decision import MAX_BYTES, ObservedState, WriteSecret, decide_write
from controller.domain.secret_limits import find_violation, key_violation
from controller.kube.foreign_text import TOO_LARGE
from tests.support.builders import make_sync, make_value
from tests.support.cluster.harness import KIND_PATHS, InstalledRelease
from tests.support.cluster.namespace import Namespace

SEED = 4107
ALPHABET = "aZ0-_./ :@\n\tä\u0130\U0001f511"
PIECES = [
    "a" * 63,
    "a" * 64,
    "a.b",
    "a..b",
    "-a",
    "a-",
    "A.b",
    "x" * 253,
    "x" * 254,
    "kubernetes.io",
    "",
    "_",
    "\u0130",
]
DOCUMENTS = [
    b"",
    b" ",
    b"{}",
    b" {} \n",
    b"[]",
    b"null",
    b'"x"',
    b"{",
    b"{}x",
    b"{}{}",
    b'{"a":1}',
    b'{"a":1,"a":2}',
    b'{"a":NaN}',
    b"{'a':1}",
    b'{"a":1,}',
    b'{"a":01}',
    b'{"a":1e999}',
    b'{"a":"\\ud800"}',
    b'{"a":"\n"}',
    b"\xef\xbb\xbf{}",
    b'{"a":"\xff"}',
    b"//x\n{}",
]


@pytest.fixture(scope="module")
def space(installed: InstalledRelease) -> Iterator[Namespace]:
    """Provide one namespace for all tests, because dry runs leave nothing in it."""
    namespace = Namespace(installed)
    yield namespace
    namespace.remove()


def list_accepted(space: Namespace, secrets: list[dict[str, Any]]) -> list[bool]:
    """Create these Secrets as dry runs. Return for each whether the API server accepts it."""
    path = f"{KIND_PATHS['secret'].format(space.name)}?dryRun=All"
    accepted = []
    with space.installed.plane.session() as send:
        for number, secret in enumerate(secrets):
            body = {**secret, "metadata": {"name": f"n-{number}", **secret.get("metadata", {})}}
            status, _ = send("POST", path, body)
            assert status in (201, 400, 422)
            accepted.append(status == 201)
    return accepted


def draw_texts(count: int) -> list[str]:
    """Return random texts near the limits of names, prefixes and values."""
    rng = random.Random(SEED)

    def draw() -> str:
        if rng.random() < 0.4:
            return "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(6)))
        return "/".join(rng.choice(PIECES) for _ in range(rng.choice([1, 1, 2, 2, 3])))

    return [draw() for _ in range(count)]


def is_written(kind: str, key: str, document: bytes) -> bool:
    """Return whether the controller writes a Secret of that type with this value."""
    seen = ObservedState(
        sync=make_sync([key], type=kind),
        secret=None,
        fetched={key: make_value(document)},
        digests={key: b"digest"},
        known={},
        partial=True,
    )
    return isinstance(decide_write(seen), WriteSecret)


def list_differences(texts: list[str], expected: list[bool], accepted: list[bool]) -> list[tuple[str, bool]]:
    return [(text, real) for text, ours, real in zip(texts, expected, accepted, strict=True) if ours != real]


@pytest.mark.parametrize("place", ["label key", "label value", "annotation key", "data key"])
def test_controller_and_api_server_accept_the_same_texts(space: Namespace, place: str) -> None:
    texts = draw_texts(300)
    match place:
        case "label key":
            secrets: list[dict[str, Any]] = [{"metadata": {"labels": {text: "x"}}} for text in texts]
            expected = [find_violation({text: "x"}, {}) is None for text in texts]
        case "label value":
            secrets = [{"metadata": {"labels": {"k": text}}} for text in texts]
            expected = [find_violation({"k": text}, {}) is None for text in texts]
        case "annotation key":
            secrets = [{"metadata": {"annotations": {text: "x"}}} for text in texts]
            expected = [find_violation({}, {text: "x"}) is None for text in texts]
        case _:
            secrets = [{"data": {text: ""}} for text in texts]
            expected = [key_violation(text) is None for text in texts]
    assert list_differences(texts, expected, list_accepted(space, secrets)) == []


@pytest.mark.parametrize(
    ("kind", "key"),
    [("kubernetes.io/dockerconfigjson", ".dockerconfigjson"), ("kubernetes.io/dockercfg", ".dockercfg")],
)
def test_document_that_the_controller_writes_is_accepted_by_the_api_server(
    space: Namespace, kind: str, key: str
) -> None:
    """Allow the controller to be stricter than the API server, because a kubelet reads only JSON objects."""
    secrets: list[dict[str, Any]] = [
        {"type": kind, "data": {key: base64.b64encode(document).decode()}} for document in DOCUMENTS
    ]
    accepted = list_accepted(space, secrets)
    written = [is_written(kind, key, document) for document in DOCUMENTS]
    assert any(written)
    assert not [
        document for document, ours, real in zip(DOCUMENTS, written, accepted, strict=True) if ours and not real
    ]


def test_api_server_says_that_a_secret_is_too_large(space: Namespace) -> None:
    data = {"k": base64.b64encode(bytes(MAX_BYTES + 1)).decode()}
    path = f"{KIND_PATHS['secret'].format(space.name)}?dryRun=All"
    with space.installed.plane.session() as send:
        status, answer = send("POST", path, {"metadata": {"name": "large"}, "data": data})
    assert status == 422
    assert TOO_LARGE in str(answer)
