"""Test the list of defences: each one is in the code, and its test exists."""

import pytest

from tests.mutation.defences import Defence, load_defences, without_defence
from tests.mutation.paths import ROOT
from tests.support.pages import list_test_names

DEFENCES = load_defences()


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda defence: defence.promise)
def test_defence_can_be_removed_and_its_test_exists(defence: Defence) -> None:
    text = (ROOT / defence.file).read_text()
    changed = without_defence(defence, text)
    assert changed != text
    compile(changed, defence.file, "exec")
    path, name = defence.test.split("::")
    assert name in list_test_names(path)


def test_each_defence_is_listed_once() -> None:
    assert len({(each.file, each.remove) for each in DEFENCES}) == len(DEFENCES) > 20
