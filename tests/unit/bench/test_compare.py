"""Test the comparison with a peer: the order of the runs, the templates, and the counted requests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.bench.compare import (
    OURS,
    PEER,
    ControllerEnded,
    TemplateError,
    Trial,
    fill_template,
    format_table,
    main,
    order_sides,
    read_traffic,
)
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace

USER = "system:serviceaccount:peer:peer"
THIS = Path(__file__).parents[2] / "bench/peers/this"


@pytest.mark.parametrize("runs", [1, 2, 3, 4])
def test_both_sides_alternate(runs: int) -> None:
    sides = order_sides(runs)
    assert sides.count(OURS) == sides.count(PEER) == runs
    # At any moment, neither side has two measurements more than the other.
    for number in range(len(sides)):
        done = sides[: number + 1]
        assert abs(done.count(OURS) - done.count(PEER)) <= 1
    assert runs < 2 or sides[0] != sides[2]


def test_controller_that_ended_ends_the_wait_at_once() -> None:
    def raise_if_ended() -> None:
        raise ControllerEnded("exit code 3")

    trial = Trial(cast("InstalledRelease", None), cast("Namespace", None), ["a"], USER, 0, raise_if_ended)
    with pytest.raises(ControllerEnded, match="exit code 3"):
        trial.wait_secrets(["a"], "first")


def test_variables_are_filled_in() -> None:
    assert fill_template("a: $NAME-${NAME}x, $5, $(cmd)", {"NAME": "s1"}) == "a: s1-s1x, $5, $(cmd)"


def test_unknown_variable_is_refused_by_its_name() -> None:
    with pytest.raises(TemplateError, match=r"^\$NAMES is not known; known are NAME, VAULT$"):
        fill_template("$NAME $NAMES", {"VAULT": "v", "NAME": "n"})


def format_audit_line(verb: str, resource: str, name: str, code: int = 200, **more: Any) -> bytes:
    entry: Mapping[str, Any] = {
        "verb": verb,
        "stage": "ResponseComplete",
        "user": {"username": USER},
        "objectRef": {"resource": resource, "namespace": "shop", "name": name},
        "responseStatus": {"code": code},
    }
    return json.dumps({**entry, **more}).encode()


def test_writes_of_the_peer_are_counted_and_its_secrets_named() -> None:
    lines = [
        format_audit_line("create", "secrets", "a", 201),
        format_audit_line("update", "secrets", "a"),
        format_audit_line("patch", "externals", "a"),
        format_audit_line("get", "secrets", "b"),
        format_audit_line("create", "secrets", "c", 409),
        format_audit_line("create", "secrets", "d", stage="ResponseStarted"),
        format_audit_line("create", "secrets", "e", user={"username": f"{USER}-2"}),
        format_audit_line(
            "create", "secrets", "f", objectRef={"resource": "secrets", "namespace": "other", "name": "f"}
        ),
    ]
    found = read_traffic(lines, USER, "shop")
    assert (found.writes, sorted(found.secrets)) == (4, ["a"])


def test_table_has_medians_and_all_runs() -> None:
    lines = list(format_table({"one": [{"x": 3.0}, {"x": 1.0}, {"x": 2.0, "y": 1234.5}], "two": [{"x": 7.0}]}))
    assert lines == [
        "| what | one | two |",
        "| --- | --- | --- |",
        "| x | 2 (3, 1, 2) | 7 (7) |",
        "| y | 1,234 (1,234) | - |",
    ]


@pytest.mark.parametrize(
    ("each", "mode", "message"),
    [
        ("name: $NAME", 0o644, "is not an executable: chmod +x"),
        ("name: fixed", 0o755, "does not have $NAME"),
        (None, 0o755, "No such file"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    each: str | None, mode: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, file = tmp_path / "start", tmp_path / "each.yaml"
    start.touch(mode=mode)
    if each is not None:
        file.write_text(each)
    with pytest.raises(SystemExit) as ended:
        main(["--start", str(start), "--each", str(file)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_example_uses_only_known_variables() -> None:
    known = dict.fromkeys(("NAME", "NAMESPACE", "SERVICE_ACCOUNT", "CLIENT_ID", "TENANT_ID", "VAULT"), "x")
    assert "$" not in fill_template((THIS / "each.yaml").read_text(), known)
    assert (THIS / "start").stat().st_mode & 0o111
