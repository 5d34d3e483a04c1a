"""Test reading one property of a value: paths, JSON, YAML, and hostile documents."""

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.domain.properties import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    find_property,
    list_properties,
    parse_path,
    read_document,
)
from controller.domain.vault_objects import PROPERTY
from controller.errors import ObjectError

SUBJECT = "secret config in Key Vault shop"
CANARY = "canary-77d1"
# Seconds of CPU for any document of the largest size. Reading one takes 0.05 s on one core of 2.5 GHz.
MAX_SECONDS = 1.0

DOCUMENT = """
{"database": {"password": "s3cret", "port": 5432, "ratio": 1.10, "big": 1e400, "id": 12345678901234567890123},
 "tls.crt": "PEM", "on": true, "off": false, "none": null, "empty": "", "ünï": "ö \\u00e9",
 "servers": [{"name": "a"}, {"name": "b", "tags": ["x", "y"]}], "a[0]": "bracket", "0": "zero", "back\\\\slash": "b"}
"""


def read_text(document: str, path: str) -> str:
    assert PROPERTY.fullmatch(path)
    return find_property(read_document(document.encode(), SUBJECT), path, SUBJECT).decode()


def get_refusal(document: str | bytes, path: str = "a") -> str:
    data = document if isinstance(document, bytes) else document.encode()
    with pytest.raises(ObjectError) as caught:
        find_property(read_document(data, SUBJECT), path, SUBJECT)
    return caught.value.message


def find_problem(data: bytes) -> str:
    """Return why the properties of a value cannot be listed, or an empty text."""
    try:
        list_properties(read_document(data, SUBJECT), SUBJECT)
    except ObjectError as error:
        return error.message
    return ""


def escape_name(name: str) -> str:
    return "".join(f"\\{letter}" if letter in ".[]\\" else letter for letter in name)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("database.password", "s3cret"),
        ("database.port", "5432"),
        ("database.ratio", "1.10"),
        ("database.big", "1e400"),
        ("database.id", "12345678901234567890123"),
        ("on", "true"),
        ("off", "false"),
        ("none", "null"),
        ("empty", ""),
        ("ünï", "ö é"),
        (r"tls\.crt", "PEM"),
        ("tls.crt", "PEM"),
        ("servers.0.name", "a"),
        ("servers[0].name", "a"),
        (".servers.[0].name", "a"),
        ("servers[0]name", "a"),
        ("servers[1].tags[1]", "y"),
        ("servers.1.tags", '["x","y"]'),
        ("servers[1]", '{"name":"b","tags":["x","y"]}'),
        (r"a\[0\]", "bracket"),
        ("a[0]", "bracket"),
        ("0", "zero"),
        (r"back\\slash", "b"),
    ],
)
def test_path_finds_the_text(path: str, expected: str) -> None:
    assert read_text(DOCUMENT, path) == expected


def test_numbers_within_objects_keep_their_digits() -> None:
    expected = '{"password":"s3cret","port":5432,"ratio":1.10,"big":1e400,"id":12345678901234567890123}'
    assert read_text(DOCUMENT, "database") == expected


@pytest.mark.parametrize(
    ("document", "path", "expected"),
    [
        ("a: 1.10", "a", "1.10"),
        ("a: 1e400", "a", "1e400"),
        ("a: True", "a", "true"),
        ("a: no", "a", "no"),
        ("a: 'true'", "a", "true"),
        ("a: [no, 0x10, 012, .inf, True, ~, 1, '1', !!str 2, 1_000]", "a",
         '["no","0x10","012",".inf",true,null,1,"1","2","1_000"]'),
        ("a: |\n  x\n  y\n", "a", "x\ny\n"),
        ("a: {b: {c: 'd e'}}", "a.b.c", "d e"),
        ("a:\n- b: 1\n- b: 2\n", "a[1].b", "2"),
        ("1: one", "1", "one"),
        ("- x\n- y", "[1]", "y"),
        ("\ufeff{\"a\": 1}", "a", "1"),
        ("# a comment\n---\na: 1\n...\n", "a", "1"),
        ("a: 2030-01-01", "a", "2030-01-01"),
        (r'a: "\x41\e"', "a", "A\x1b"),
        (r'"\x41": 1', "A", "1"),
        (r'{a: "\x41"}', "a", "A"),
        ('{"a": //server/share}', "a", "//server/share"),
        ('{"a": /*.pem}', "a", "/*.pem"),
    ],
)  # fmt: skip
def test_yaml_is_read_as_its_text(document: str, path: str, expected: str) -> None:
    assert read_text(document, path) == expected


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        ('{"a": {"user": "%s"}}', "a.pass", "no property 'a.pass'; 'a' has: user"),
        ('{"a": "%s"}', "b", "no property 'b'; the value has: a"),
        ('{"a": "%s"}', "a.b", "'a' is a text"),
        ('{"a": ["%s"]}', "a[1]", "'a' is a list of 1"),
        ('{"a": ["%s"]}', "a.first", "'a' is a list of 1"),
        ('{"a": {}, "b": "%s"}', "a.b", "'a' is an empty object"),
        ('{"a": 12345, "b": "%s"}', "a.b", "'a' is a number, true, false or null"),
        ('{"line\\nbreak": "%s"}', "b", r"the value has: 'line\nbreak'"),
        ('{"\\ud800": "%s"}', "b", r"the value has: '\ud800'"),
        ('{"": "%s"}', "b", "the value has: ''"),
        ("%s", "a", "the value is a text"),
        ('"%s"', "a", "the value is a text"),
        ('{"a": "%s", "a": 1}', "a", "'a' more than once"),
        ("b: %s\na: 1\na: 2", "b", "'a' more than once"),
        ('{"a": NaN, "b": "%s"}', "b", "NaN, which JSON does not have"),
        ('{"a": -Infinity, "b": "%s"}', "b", "-Infinity, which JSON does not have"),
        ('{"a": "%s\\ud800"}', "a", "not valid Unicode"),
        ("a: &x %s\nb: *x", "a", "alias"),
        ("a: &x [*x, %s]", "a", "alias"),
        ("a: !!binary %s", "a", "tag"),
        ("a: !!python/object/apply:os.system ['%s']", "a", "tag"),
        ("a: %s\n---\nb: 1", "a", "several YAML documents"),
        ("? [a]\n: %s", "a", "name"),
        ("a: '%s", "a", "neither JSON nor YAML (line 1)"),
        ("a: 1\nb: %s: c", "a", "neither JSON nor YAML (line 2)"),
        ("{%s", "a", "neither JSON nor YAML"),
        ('{"x": 1,\n"a": "%s\nb"}', "a", r"has a line break in a JSON text (line 2): write \n"),
        ('{"a": ["%s\r\n"]}', "a", r"has a line break in a JSON text (line 1): write \n"),
        ('{"x": 1,\n"a": "%s\\x41"}', "a", r"has a backslash that JSON does not have (line 2): write \\"),
        (r'["%s", "C:\apps\vault\etc"]', "[1]", r"has a backslash that JSON does not have (line 1): write \\"),
        (r'{"b": "%s", "a": "C:\users"}', "a", r"has a backslash that JSON does not have (line 1): write \\"),
        ('{"a": 1 // one\n, "b": "%s"}', "a", "has a comment, which JSON does not have (line 1): remove it"),
        ('[\n{"a": true /* on */, "b": "%s"}]', "[0].a", "has a comment, which JSON does not have (line 2): remove it"),
        ('{"a": /* one */ "%s"}', "a", "has a comment, which JSON does not have (line 1): remove it"),
        ('{"a": 1, /* two */ "b": "%s"}', "b", "has a comment, which JSON does not have (line 1): remove it"),
        ('["%s",\n// two\n"b"]', "[1]", "has a comment, which JSON does not have (line 2): remove it"),
        ("a: %s\0", "a", "neither JSON nor YAML"),
        ("%%a\n" * 9 + "a: %s", "a", "too many lines that begin with %"),
    ],
)
def test_refusal_says_why_and_quotes_no_value(document: str, path: str, words: str) -> None:
    message = get_refusal(document % CANARY, path)
    assert words in message
    assert message.startswith(SUBJECT)
    assert "canary" not in message


def test_refusal_lists_few_names_and_cuts_long_ones() -> None:
    names = ["x" * 5000, *(f"n{number}" for number in range(2000))]
    message = get_refusal(json.dumps(dict.fromkeys(names, CANARY)))
    assert "n8" in message
    assert "and 1991 more" in message
    assert len(message) < 300


def test_text_that_is_not_utf8_is_refused() -> None:
    assert "not UTF-8" in get_refusal(b'{"a": "\xff"}')


@pytest.mark.parametrize("path", ["", ".", "a.", "a..b", "..a", "a[", "a[]", "a[x]", "a]b", "a\\", "a[1234567]"])
def test_invalid_path_is_refused(path: str) -> None:
    assert not PROPERTY.fullmatch(path)


@given(st.lists(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_any_name_can_be_written_in_a_path(names: list[str]) -> None:
    path = ".".join(map(escape_name, names))
    assert PROPERTY.fullmatch(path)
    assert parse_path(path) == names


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=9
)


def format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), VALUES, min_size=1))
def test_every_property_of_any_json_is_read_unchanged(document: dict[str, Any]) -> None:
    listed = list_properties(read_document(json.dumps(document).encode(), SUBJECT), SUBJECT)
    assert listed.keys() == document.keys()
    for name, value in document.items():
        text = listed[name]
        assert isinstance(text, bytes)
        if isinstance(value, list | dict):
            assert json.loads(text) == value
        else:
            assert text.decode() == format_value(value)


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_characters="\x7f\x85\xa0"))


@given(
    st.dictionaries(
        st.from_regex(r"\A[a-z][a-z0-9 _-]{0,9}\Z"),
        PRINTABLE | st.booleans() | st.integers() | st.lists(PRINTABLE | st.booleans(), max_size=3),
        min_size=1,
    ),
    st.booleans(),
)
def test_every_property_of_yaml_is_read_unchanged(document: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(document, allow_unicode=True, default_flow_style=flow)
    listed = list_properties(read_document(text.encode(), SUBJECT), SUBJECT)
    for name, value in document.items():
        found = listed[name]
        assert isinstance(found, bytes)
        if isinstance(value, list):
            # PyYAML writes a text such as 0E0 without quotes: by YAML's core schema it is a number, of the same digits.
            read = json.loads(found, parse_float=str, parse_int=str)
            assert [format_value(item) for item in read] == [format_value(item) for item in value]
        else:
            assert found.decode() == format_value(value)


@given(st.binary(max_size=300) | st.text("{}[]:,-?&*!|>'\"%#\n a1", max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert len(find_problem(data)) < 500


@pytest.mark.parametrize(
    "pattern",
    ["[", "{", '{"a":', "[{", "- ", "? ", "a: ", "[[],", "[],", "&a ", "&a [", "*a ", "!a ", "%a\n", "'", '"', "- a\n",
     "a,", "a:a:", "[a: b,", ": ", "#", "|\n", "? a\n", "-\n", "\t", "1", '"\\u0041', "{a,", "{a: {b: ", "-\n -\n  "],
)  # fmt: skip
def test_hostile_document_ends_within_the_time_limit(pattern: str) -> None:
    data = (pattern * MAX_DOCUMENT_BYTES).encode()[:MAX_DOCUMENT_BYTES]
    for document in (data, b"a: [" + data[:-4], b'{"a":[' + data[:-6]):
        began = time.thread_time()
        assert len(find_problem(document)) < 500
        assert time.thread_time() - began < MAX_SECONDS


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nested_json_is_read_or_refused(opening: str, closing: str) -> None:
    for depth in (1, MAX_DEPTH, MAX_DEPTH + 1, 900, 5000, 10_000):
        document = ("[" + opening * (depth - 1) + "1" + closing * (depth - 1) + "]").encode()
        assert ("more than 64 levels" if depth > MAX_DEPTH else "no properties") in find_problem(document)


def test_document_above_the_size_limit_is_not_read() -> None:
    data = b'{"a": "' + b"x" * MAX_DOCUMENT_BYTES + b'"}'
    assert f"at most {MAX_DOCUMENT_BYTES}" in get_refusal(data)


@pytest.mark.parametrize("document", ["{}", "[]", "[1]", "x", "1", "", "null"])
def test_document_that_is_not_an_object_has_no_properties(document: str) -> None:
    with pytest.raises(ObjectError, match="has no properties"):
        list_properties(read_document(document.encode(), SUBJECT), SUBJECT)
