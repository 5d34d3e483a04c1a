"""Test that tags in the parameter `objects` have the same meaning as in the CSI provider (gopkg.in/yaml.v3).

The expected values are from version 1.8.2 of the provider, whose types decoded the same texts.
"""

import base64

import pytest

from controller.domain.vault_objects import VaultObject, read_objects

BINARY = base64.b64encode(b"objectName: pin\nobjectAlias: code\n").decode()

NO_BASE64 = "the tag !!binary needs the base64 of a text"


def read_object(fields: str) -> VaultObject:
    """Return the only object of a class whose item has these lines. Raise `AssertionError` with its fault."""
    items = read_objects("array:\n  - |\n" + "".join(f"    {line}\n" for line in fields.splitlines()))
    assert not [*items.faults.values(), *items.unnamed_faults]
    (found,) = items.objects.values()
    return found


@pytest.mark.parametrize("tag", ["!!str", "!<tag:yaml.org,2002:str>", "!local", "!!set", "!!str &anchor"])
@pytest.mark.parametrize("word", ["~", "null", "Null", "NULL"])
def test_null_word_with_a_tag_is_a_text(tag: str, word: str) -> None:
    assert read_object(f"objectName: pin\nobjectAlias: {tag} {word}").alias == word


@pytest.mark.parametrize("value", ["!!null", "!!null ~", '!!null "null"', "!!null '~'", '!!null ""', "! ~", "! null"])
def test_null_tag_means_left_out(value: str) -> None:
    assert read_object(f"objectName: pin\nobjectAlias: {value}").alias == ""


@pytest.mark.parametrize(
    ("value", "alias"),
    [
        ("!!binary Y29kZQ==", "code"),
        ('!!binary "Y29kZQ=="', "code"),
        ("!!binary |\n      Y29k\n      ZQ==", "code"),
        ("!!binary IGNvZGUK", "code"),
        ('!!binary "Y29k\\rZQ==\\r\\n"', "code"),
        ('!!binary ""', ""),
        ("!!binary bnVsbA==", "null"),
        ('!!int "3"', "3"),
        ("!!int 0x1F", "0x1F"),
        ("!!int 1_000", "1_000"),
        ("!!float 3", "3"),
        ("!!float .inf", ".inf"),
        ("!!float -1_0.5", "-1_0.5"),
        *((f"!!bool {word}", word) for word in ("true", "True", "TRUE", "false", "False", "FALSE")),
    ],
)
def test_tagged_text_is_decoded_as_the_csi_provider_does(value: str, alias: str) -> None:
    assert read_object(f"objectName: pin\nobjectAlias: {value}").alias == alias


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        *((f"!!binary {text}", NO_BASE64) for text in ("x", "Y29kZQ", "Y29k!ZQ==", "/w==")),
        ("!!int code", "'code' has another type than its tag"),
        ("!!int 1.5", "'1.5' has another type than its tag"),
        ("!!int ~", "'~' has another type than its tag"),
        ("!!float code", "'code' has another type than its tag"),
        ("!!bool yes", "'yes' has another type than its tag"),
        ("!!bool t_rue", "'t_rue' has another type than its tag"),
        ("!!null code", "'code' has another type than its tag"),
        ("!!null nu_ll", "'nu_ll' has another type than its tag"),
    ],
)
def test_text_that_its_tag_does_not_allow_is_a_fault(value: str, fault: str) -> None:
    items = read_objects(f"array:\n  - |\n    objectName: pin\n    objectAlias: {value}\n  - 'objectName: other'\n")
    assert list(items.objects) == ["other"]
    assert items.faults == {"pin": f"objects item 0 (line 2), line 4: objectAlias: {fault}; remove the tag"}


@pytest.mark.parametrize(
    ("value", "history"), [('!!int "3"', 3), ("!!int 010", 8), ("!!float 2.0", 2), ("!!null ~", 1)]
)
def test_tagged_history_is_a_number(value: str, history: int) -> None:
    assert read_object(f"objectName: pin\nobjectVersionHistory: {value}").history == history


@pytest.mark.parametrize("item", [f"!!binary {BINARY}", f'!!binary "{BINARY}"', f"!!binary |\n      {BINARY}"])
def test_binary_item_is_its_decoded_text(item: str) -> None:
    assert list(read_objects(f"array:\n  - {item}\n").objects) == ["code"]


def test_tagged_names_of_fields_are_decoded() -> None:
    assert read_object("!!binary b2JqZWN0TmFtZQ==: pin\n!!str objectAlias: code\n!!null ~: x").served_as == "code"
    assert list(read_objects("!!binary YXJyYXk=:\n  - 'objectName: pin'\n").objects) == ["pin"]


def test_tagged_merge_key_is_a_merge_key_and_a_text_is_not() -> None:
    assert read_object("objectName: pin\n!!str <<: {objectAlias: code}").alias == ""
    items = read_objects("array:\n  - |\n    objectName: pin\n    !!merge <<: {objectAlias: code}\n")
    assert "a merge key" in items.faults["pin"]


@pytest.mark.parametrize("blank", ["\t\n", " \t \n\n", "\n\t\n", "\r\n\t\r\n"])
def test_blank_lines_around_the_parameter_do_not_matter(blank: str) -> None:
    items = read_objects(f"{blank}array:\n  - 'objectName: pin'\n  - x\n{blank}\t")
    assert list(items.objects) == ["pin"]
    assert f"line {blank.count(chr(10)) + 3}" in items.unnamed_faults[0]


@pytest.mark.parametrize("space", ["\t", "    ", "\n \t\n  ", " \ufeff", "\u00a0"])
def test_space_before_the_first_word_of_the_parameter_does_not_matter(space: str) -> None:
    items = read_objects(f"{space}array:\n- 'objectName: pin'\n- x\n")
    assert list(items.objects) == ["pin"]
    assert f"line {space.count(chr(10)) + 3}" in items.unnamed_faults[0]


@pytest.mark.parametrize(
    "text",
    [
        "array:\n  - ''\n  - 'objectName: pin'\n",
        "%YAML 1.2\n---\narray:\n  - 'objectName: pin'\n",
        "array:\n  - |\n    %YAML 1.2\n    ---\n    objectName: pin\n",
        'array:\n  - |\n    objectName: "pin"\n    unknown: "a\\/b"\n',
    ],
)
def test_text_that_the_csi_provider_refuses_without_need_is_read(text: str) -> None:
    items = read_objects(text)
    assert list(items.objects) == ["pin"]
    assert not items.faults
    assert not items.unnamed_faults
