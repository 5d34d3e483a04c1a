"""Test that the check of words and moods finds violations of CONTRIBUTING.md, and that its list of files shrinks."""

from pathlib import Path

import pytest

from tools import plain_english

ROOT = Path(__file__).resolve().parents[3]
# How many files may be exempt. Lower the number when files leave the list; never raise it.
MAX_NOT_REWRITTEN = 0
RULES = plain_english.LanguageRules.read()


def find_violations(tmp_path: Path, name: str, text: str) -> list[str]:
    (tmp_path / name).write_text(text)
    return plain_english.check(tmp_path, RULES)


def test_list_of_files_not_rewritten_does_not_grow() -> None:
    assert len(RULES.not_rewritten) <= MAX_NOT_REWRITTEN
    assert RULES.not_rewritten == sorted(set(RULES.not_rewritten))


def test_each_file_not_rewritten_exists() -> None:
    assert [name for name in RULES.not_rewritten if not (ROOT / name).exists()] == []


# The forbidden words in these texts are split, so that the check does not find them in this file.
@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("page.md", "Ask who" + "ever installed it.\n", 'page.md:1: "who' + 'ever"'),
        ("page.md", "Fine.\n\nThe rule stan" + "ds in the table.\n", 'page.md:3: "stan' + 'ds"'),
        ("chart.yaml", "# No" + "body reads it.\n", 'chart.yaml:1: "No' + 'body"'),
        ("NOTES.txt", "To" + "ld by the API server.\n", 'NOTES.txt:1: "To' + 'ld"'),
        ("code.py", "x = 1  # written an" + "ew\n", 'code.py:1: "an' + 'ew"'),
        ("code.py", 'x = "a"\ny = f"""one\n{x} is of ' + 'ours"""\n', 'code.py:3: "of ' + 'ours"'),
        ("code.py", "def test_no" + "body_reads_it() -> None: ...\n", 'code.py:1: "no' + 'body"'),
        ("code.py", "class RuleOf" + "Ours: ...\n", 'code.py:1: "Of' + ' Ours"'),
        ("code.py", "x = 1\nto" + "ld = 2\n", 'code.py:2: "to' + 'ld"'),
        ("code.py", "def f(x: int, t" + "ell: int) -> None: ...\n", 'code.py:1: "t' + 'ell"'),
        ("code.py", "print(step.last_de" + "ed)\n", 'code.py:1: "de' + 'ed"'),
        ("code.py", 'print(f"{to' + 'ld} s")\n', 'code.py:1: "to' + 'ld"'),
        ("page.md", "For the sa" + "ke of every" + "thing.\n", 'page.md:1: "sa' + 'ke"'),
        ("page.md", "Every" + "body reads it.\n", 'page.md:1: "Every' + 'body"'),
        ("page.md", "The test looks" + " at it.\n", 'page.md:1: "looks' + ' at"'),
        ("code.py", 'def f() -> int:\n    """The number."""\n    return 1\n', "code.py:2: D401"),
    ],
)
def test_forbidden_phrase_or_mood_is_found(name: str, text: str, found: str, tmp_path: Path) -> None:
    (line,) = find_violations(tmp_path, name, text)
    assert line.startswith(found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("code.py", "intel = indeed = 1\nprint(intel.looks, indeed)\n"),
        ("code.py", 'def f() -> int:\n    """Return the number."""\n    return 1\n'),
        ("page.md", "SSE stands for Secret Sync Extension.\n"),
        ("picture.svg", "who" + "ever\n"),
        (".venv", "who" + "ever\n"),
    ],
)
def test_other_names_and_usual_meanings_pass(name: str, text: str, tmp_path: Path) -> None:
    assert find_violations(tmp_path, name, text) == []


def test_exempt_file_with_findings_passes_and_one_without_is_named() -> None:
    finding = plain_english.Finding("old.md", 3, "a word")
    assert plain_english.judge([finding], ["old.md"]) == []
    assert plain_english.judge([finding], []) == ["old.md:3: a word"]
    assert plain_english.judge([], ["old.md"]) == [
        'old.md: is rewritten; delete it from "not_rewritten" in tools/plain_english.toml'
    ]


def test_quotation_passes_and_the_rest_of_its_line_is_checked(tmp_path: Path) -> None:
    rules = plain_english.LanguageRules({r"\bred\b": "a colour", r"\bblue\b": "a colour"}, ["red light"], [])
    path = tmp_path / "page.md"
    path.write_text("red light, blue\n")
    assert [each.text for each in plain_english.find_words(path, "page.md", rules)] == ['"blue": a colour']
