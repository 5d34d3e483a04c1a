"""Test tools/cluster: its errors, and its output if no cluster runs."""

import os

import pytest

from tests.unit.local_cluster.fake_go import FakeGo
from tools.local_cluster.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["kubeconfig"], 1, "error: no cluster 'default' is running; start it: tools/cluster up\n"),
        (
            ["kubectl", "--name", "x"],
            1,
            "error: no cluster 'x' is running; start it: tools/cluster up --name x\n",
        ),
        (["up", "--name", ""], 2, "error: --name '': a name has up to 32 lower-case letters, digits and hyphens\n"),
        (
            ["up", "--name", "../x"],
            2,
            "error: --name '../x': a name has up to 32 lower-case letters, digits and hyphens\n",
        ),
        (["up", "--kubernetes", "1.37"], 2, "error: kubernetes='1.37' is not a Kubernetes release: "),
    ],
)
def test_invalid_command_reports_its_error(
    fake_go: FakeGo, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(arguments) == code
    assert capsys.readouterr().err.startswith(message)


def test_node_without_root_is_refused(
    fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["up", "--node"]) == 2
    assert capsys.readouterr().err == (
        "error: a node needs root, for namespaces, mounts and cgroups: run the same command with sudo\n"
    )


def test_down_and_status_without_a_cluster_say_so(fake_go: FakeGo, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert main(["status"]) == 1
    assert capsys.readouterr().out == (
        "cluster 'default' was not running\nno cluster is running; start one: tools/cluster up\n"
    )
