"""Test that every tool ends with an exit code and at most one line, without a traceback."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.cli.capacity import plan
from tools.cli.common.command import BadInput, read_yaml
from tools.cli.doctor import doctor
from tools.cli.migrate import migrate
from tools.cli.render import render
from tools.codegen import generate
from tools.demonstration import demo
from tools.release import package

ROOT = Path(__file__).parents[4]
CALL_OF_RUN_AND_EXIT = r"""^    (command\.)?run_and_exit\(("tools/[a-z-]+"|COMMAND\.name), main\)$"""
PROGRAM = "from tools.cli.common.command import run_and_exit\n{body}\nrun_and_exit('tools/x', main)"


def run_tool(body: str, stdout: int = subprocess.PIPE) -> tuple[int, str]:
    """Return the exit code and stderr of a tool whose code is `body`."""
    command = [sys.executable, "-P", "-c", PROGRAM.format(body=body)]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("main = lambda: 3", 3, ""),
        ("main = lambda: open('/nowhere/x')", 1, "tools/x: /nowhere/x: No such file or directory\n"),
        (
            # Python ignores SIGINT if its parent does, such as a shell that starts a job in the background.
            "def main(): import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
            " os.kill(os.getpid(), signal.SIGINT); signal.pause()",
            130,
            "\ntools/x: stopped\n",
        ),
        ("def main(): raise TimeoutError('it took\\n  too long')", 1, "tools/x: it took too long\n"),
    ],
)
def test_tool_ends_with_an_exit_code_and_at_most_one_line(body: str, code: int, message: str) -> None:
    assert run_tool(body) == (code, message)


def run_script(folder: Path, body: str, *arguments: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of tools/run with a module `slow` of that body. It runs this Python."""
    (folder / "slow.py").write_text(body)
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "run", folder / "tools" / "run")
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (folder / "Makefile").write_text(".venv/ready:\n\t@touch .venv/ready\n")
    (folder / "tools" / "cli").symlink_to(ROOT / "tools" / "cli")
    command = [str(folder / "tools" / "run"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_during_the_imports_ends_in_one_line(tmp_path: Path) -> None:
    assert run_script(tmp_path, "raise KeyboardInterrupt", "slow") == (130, "", "\nstopped\n")


def test_launched_module_has_its_name_and_arguments(tmp_path: Path) -> None:
    body = "import sys; print(__name__, sys.argv[1:]); sys.exit(3)"
    assert run_script(tmp_path, body, "slow", "--flag", "slow") == (3, "__main__ ['--flag', 'slow']\n", "")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ((), "no module is given"),
        *(
            ((name,), f"there is no module {name!r}")
            for name in ("nonsense", "tools.nope.x", "slow.x", "tools.cli", ".slow", "", "--help", "tools/cli/x.py")
        ),
    ],
)
def test_missing_module_is_reported_in_one_line(arguments: tuple[str, ...], cause: str, tmp_path: Path) -> None:
    fix = "name one of this repository, such as tools.cli.render.render"
    assert run_script(tmp_path, "pass", *arguments) == (2, "", f"tools/run: {cause}; {fix}\n")


def test_import_error_within_a_module_is_not_hidden(tmp_path: Path) -> None:
    code, _, stderr = run_script(tmp_path, "import missing_module", "slow")
    assert code == 1
    assert "No module named 'missing_module'" in stderr


@pytest.mark.parametrize("text", ["'few'", "'much ' * 100_000"])
def test_reader_that_closes_the_pipe_causes_no_error(text: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert run_tool(f"main = lambda: print({text})", writing) == (0, "")
    os.close(writing)


def test_full_disk_is_reported_once() -> None:
    with Path("/dev/full").open("w") as full:
        assert run_tool("main = lambda: print('few')", full.fileno()) == (1, "tools/x: No space left on device\n")


def test_closed_stdout_causes_no_error() -> None:
    command = [sys.executable, "-P", "-c", PROGRAM.format(body="main = lambda: print('few')")]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"---\n# nothing\n", "is empty"),
        (b"\xff\xfe", "cannot be read: it is not text"),
        (b"a: [\n", "cannot be read: line 2, column 1: expected the node content, but found '<stream end>'"),
        (b"a: *b\n", "cannot be read: line 1, column 4: found undefined alias 'b'"),
        (b"[" * 3000, "cannot be read: it is nested too deeply"),
        (b"a: \x01\n", "cannot be read: unacceptable character"),
    ],
)
def test_invalid_yaml_is_reported_in_one_line(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "in.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as raised:
        read_yaml(path)
    assert str(raised.value).startswith(f"{path}: {why}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("make", "why"), [(Path.mkdir, "Is a directory"), (Path.exists, "No such file or directory")])
def test_unreadable_file_is_named(make: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    make(tmp_path / "in")
    with pytest.raises(BadInput, match=rf"in: cannot be read: {why}$"):
        read_yaml(tmp_path / "in")


def test_every_nonempty_document_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a: 1\n---\n\n---\n- 2\n")
    assert read_yaml(tmp_path / "in") == [{"a": 1}, [2]]


def test_every_tool_ends_through_run_and_exit() -> None:
    root = ROOT / "tools"
    scripts = [path for path in root.iterdir() if path.is_file() and "exec " in path.read_text() and path.name != "run"]
    assert len(scripts) >= 9
    for script in scripts:
        module = ROOT.joinpath(*script.read_text().split()[-2].split("."))
        module_file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
        if script.name != "keyvault-emulator":  # The image of helm test contains it without `run_and_exit`.
            text = module_file.read_text()
            assert f'"tools/{script.name}"' in text, script
            assert re.search(CALL_OF_RUN_AND_EXIT, text, re.MULTILINE), script


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (render.main, ["--output", ""]),
        (doctor.main, ["--kubeconfig", ""]),
        (plan.main, ["--from", "cluster", "--kubeconfig", ""]),
        (plan.main, ["--from", ""]),
        (generate.main, ["--root", ""]),
        (package.main, ["--output", ""]),
        (package.main, ["--image", ""]),
        (package.main, ["--sign", ""]),
        (demo.main, ["--kubeconfig", ""]),
        *(
            (migrate.main, [command, option, ""])
            for command in ("csi", "external-secrets", "akv2k8s")
            for option in ("--output", "--kubeconfig", "--cluster")  # the last one is before a file
        ),
        (migrate.main, ["akv2k8s", "--filename", ""]),
        (migrate.main, ["from-sse", "--values", ""]),
        (migrate.main, ["to-sse", "--kubeconfig", ""]),
    ],
)
def test_empty_path_does_not_mean_the_current_folder(
    main: Callable[[list[str]], int],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script passes an empty text for a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    option = "FILE" if arguments[-2] == "--cluster" else arguments[-2]
    assert re.search(rf"argument .*{option}.* empty|{option} is empty", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_missing_key_is_reported_before_cosign_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        package.main(["--changed", "--output", str(tmp_path / "out"), "--sign", str(tmp_path / "none.key")])
    assert ended.value.code == 2
    assert "none.key: there is no such file; create a key with" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", [("--registry", "https://r.example"), ("--registry", ""), ("--tag", "v9.9.9"), ("--output", ".")]
)
def test_option_that_package_cannot_use_is_wrong_usage(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert package.main(["--changed", *option]) == 2
    assert capsys.readouterr().err.startswith(f"tools/package: {option[0]} ")


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (doctor.main, ["a\nb"]),
        (doctor.main, ["--namespace", "a\nb"]),
        (doctor.main, ["--release", "a\x1b[1mb"]),
        *((each.main, ["--a\nb"]) for each in (doctor, render, generate, package, demo)),
        (migrate.main, ["csi", "--a\nb"]),
        (plan.main, ["--clusters", "1", "--secrets", "1", "--a\nb"]),
        (demo.main, ["--kubeconfig", "a\nb"]),
        (generate.main, ["--check", "--root", "a\nb"]),
    ],
)
def test_wrong_argument_is_reported_in_one_printable_line(
    main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    last = capsys.readouterr().err.split("error: ")[-1]
    assert re.fullmatch(r"[^\x00-\x1f]*a [^\x00-\x1f]*b[^\x00-\x1f]*\n", last)
