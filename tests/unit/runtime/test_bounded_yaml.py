"""Test that YAML that would exhaust its reader is refused soon, in one line and with little memory."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from controller.runtime import bounded_yaml
from controller.runtime.bounded_yaml import OutOfBounds
from tools.cli.common.command import BadInput, read_yaml
from tools.cli.migrate import migrate
from tools.cli.render import render

ROOT = Path(__file__).parents[3]
SECONDS = 20.0
SECONDS_OF_EXPLANATION = 5.0


def make_chained_aliases(first: str, each: str) -> str:
    """Return ten anchors, of which each has nine aliases of the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} " + each.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 10)]
    return "\n".join(lines)


BOMBS = {
    "billion laughs": make_chained_aliases("[lol, lol]", "[{}]"),
    "billion laughs as a flow map": "{" + ", ".join(make_chained_aliases("x", "[{}]").splitlines()) + "}",
    "merge keys": make_chained_aliases("{x: 1}", "{{<<: [{}], y: 2}}"),
    "quadratic: one large anchor, many aliases": "a: &a [" + "x, " * 1000 + "]\nb: [" + "*a, " * 1000 + "]",
    "an anchor in a key": "? &a [x, x]\n: 1\n" + "\n".join(f"? [*a, {n}]\n: [*a]" for n in range(150_000)),
    "an alias of itself": "a: &a [*a]",
    "an alias of itself by a merge": "a: &a\n  <<: *a",
    "deep flow": "[" * 100_000,
    "deep flow, closed": "[" * 5_000 + "]" * 5_000,
    "deep flow maps": "{a: " * 5_000,
    "deep block": "\n".join("  " * n + "a:" for n in range(500)),
    "deep block of sequences": "- " * 5_000,
    "deep aliases": "a0: &a0 x\n" + "\n".join(f"a{n}: &a{n} [[[*a{n - 1}]]]" for n in range(1, 60)),
    "many documents": "--- x\n" * 450_000,
}
# libyaml refuses the first line, but the parser in Python accepts it.
HIDDEN = {name: '- "\\ud800"\n---\n' + BOMBS[name] for name in ("billion laughs", "merge keys", "deep flow, closed")}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_bomb_is_refused_before_it_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "in.yaml"
    path.write_text(BOMBS[name])
    began = time.process_time()
    with pytest.raises(BadInput, match=r"in\.yaml: cannot be read: ") as message:
        read_yaml(path)
    assert time.process_time() - began < SECONDS
    assert "\n" not in str(message.value)
    with pytest.raises(OutOfBounds):
        bounded_yaml.compose_all(BOMBS[name])


@pytest.mark.parametrize("name", ["billion laughs", "merge keys", "deep flow"])
def test_every_tool_that_reads_yaml_refuses_a_bomb(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.yaml"
    path.write_text(BOMBS[name])
    for tool, arguments in (
        (migrate.main, ["csi", str(path)]),
        (migrate.main, ["from-sse", "--kubeconfig", str(path)]),
        (render.main, ["--values", str(path)]),
    ):
        assert tool(arguments) == 2
        message = capsys.readouterr()
        assert message.out == ""
        (line,) = message.err.splitlines()
        assert f"{path}: cannot be read: " in line


@pytest.mark.parametrize(
    "text",
    [
        "n: " + "1" * 5000,
        "n: 0x" + "f" * 50_000,
        "d: 2001-99-99",
        "d: 0000-00-00",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "!!python/object/apply:os.system [id]",
        "!!binary x",
        '"\\ud800"',
        "a: *b",
        "\u0001",
        "%YAML 9.9\n---\na",
    ],
)
def test_unusual_yaml_causes_at_most_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text(text)
    message = ""
    try:
        read_yaml(tmp_path / "in")
    except BadInput as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("name", HIDDEN)
def test_document_after_a_fault_is_not_read(name: str) -> None:
    began = time.process_time()
    with pytest.raises(yaml.YAMLError):
        bounded_yaml.load_all(HIDDEN[name])
    assert time.process_time() - began < SECONDS_OF_EXPLANATION


def test_ordinary_anchors_are_read(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: [*a, *a]}\n---\na: &a 2\nb: *a\n")
    one, two = read_yaml(tmp_path / "in")
    assert one == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": [{"x": 1}, {"x": 1}]}}
    assert two == {"a": 2, "b": 2}


def test_bounds_accept_the_depth_of_real_objects() -> None:
    """Accept the depth of the deepest CRD."""
    deep = "{a: " * (bounded_yaml.MAX_DEPTH - 1) + "x" + "}" * (bounded_yaml.MAX_DEPTH - 1)
    assert bounded_yaml.load_all(deep)
    with pytest.raises(OutOfBounds, match="nested too deeply"):
        bounded_yaml.load_all("{a: [" + deep + "]}")


def test_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(10**12)  # a sparse file uses no disk
    for name in (path, Path("/dev/zero")):
        with pytest.raises(BadInput, match="it has more than 16 MiB"):
            read_yaml(name)


def test_fifo_without_a_writer_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadInput, match="is empty"):
        read_yaml(tmp_path / "fifo")


def test_fifo_is_read_until_its_writer_closes_it(tmp_path: Path) -> None:
    """Read as in `tools/migrate csi <(kubectl get ...)`, where the command needs some time."""
    reading, writing = os.pipe()

    def write() -> None:
        time.sleep(0.3)
        os.write(writing, b"a: 1\n")
        time.sleep(0.3)
        os.write(writing, b"b: 2\n")
        os.close(writing)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert read_yaml(Path(f"/dev/fd/{reading}")) == [{"a": 1, "b": 2}]
    thread.join()
    os.close(reading)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to(path)])
def test_path_that_is_no_file_is_reported(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "in")
    with pytest.raises(BadInput, match="cannot be read: "):
        read_yaml(tmp_path / "in")


def test_hostile_file_name_is_printed_as_printable_characters(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/a\x1b[31m\xff\n\xc2\x9bb.yaml"
    Path(os.fsdecode(name)).write_text("a: [")
    program: list[str | bytes] = [sys.executable, "-P", "-m", "tools.cli.migrate.migrate", "csi", name]
    done = subprocess.run(program, capture_output=True, check=False)
    assert done.returncode == 2
    message = done.stderr.decode()
    assert message.endswith("\n")
    assert all(each.isprintable() for each in message.removesuffix("\n")), message


def test_stdin_has_the_same_bounds_as_a_file() -> None:
    program = [sys.executable, "-P", "-m", "tools.cli.migrate.migrate", "csi", "-"]
    done = subprocess.run(program, input=BOMBS["billion laughs"].encode(), capture_output=True, check=False)
    assert done.returncode == 2
    assert b"cannot be read: line" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("tools.cli.migrate.migrate", "csi", "-"),
        ("tools.cli.render.render", "--values", "-"),
    ],
)
def test_closed_stdin_is_reported_in_one_line(arguments: tuple[str, ...]) -> None:
    program = [sys.executable, "-P", "-m", *arguments]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(": -: cannot be read: the standard input is closed\n")
    assert done.stderr.count("\n") == 1


def test_loader_creates_only_plain_objects() -> None:
    with pytest.raises(yaml.YAMLError):
        bounded_yaml.load_all("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: =", {"a": "="}),
        ("[=, <<]", ["=", "<<"]),
        ("=: 1", {"=": 1}),
        ("a: <<", {"a": "<<"}),
        ("a: {<<: {b: 1}, c: 2}", {"a": {"b": 1, "c": 2}}),
        ("a: =x", {"a": "=x"}),
    ],
)
def test_equals_sign_and_merge_sign_are_texts_as_in_kubernetes(text: str, value: object) -> None:
    assert bounded_yaml.load_all(text) == [value]


@pytest.mark.parametrize(
    "text", ['!!int ""', "!!float _", "!!bool x", "!!timestamp x", "1:" * 300 + "1.5"], ids=lambda text: text[:12]
)
def test_value_that_does_not_fit_its_tag_is_reported(text: str, tmp_path: Path) -> None:
    path = tmp_path / "in.yaml"
    path.write_text(f"a: {text}\n")
    with pytest.raises(yaml.YAMLError):
        bounded_yaml.load_all(path.read_text())
    with pytest.raises(BadInput, match=r"in\.yaml: cannot be read: a value does not fit its type$"):
        read_yaml(path)
