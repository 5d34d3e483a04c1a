"""Test the workflows of .github/: each step calls a target of make, and the versions are those of the project."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.cli.common import project
from tools.local_cluster.programs import versions
from tools.release import verify

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_PINNED = re.compile(r"[a-z-]+/[a-z-]+@[0-9a-f]{40}")
# Commands that the code host needs. All other commands are targets of make, which the tests run.
_HOST_COMMANDS = ("gh ", "tar ", "printf %s ")


def read_workflow(path: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(path.read_text()))


def list_steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read_workflow(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_step_calls_a_target_of_make(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in list_steps(path):
        for command in step.get("run", "").replace("\\\n", " ").splitlines():
            target_call = re.fullmatch(r"(?:sudo (?:--preserve-env=\S+ )?)?make ([a-z-]+)( .*)?", command)
            assert command.startswith(_HOST_COMMANDS) or (target_call and target_call[1] in targets), command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_and_every_job_is_bounded(path: Path) -> None:
    assert read_workflow(path)["permissions"] == {}
    for job in read_workflow(path)["jobs"].values():
        assert job["timeout-minutes"] <= 360
        assert job["permissions"]
    for step in list_steps(path):
        assert "uses" not in step or _PINNED.fullmatch(step["uses"]), step


def test_ci_runs_oldest_and_newest_kubernetes_on_both_architectures() -> None:
    jobs = read_workflow(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    chart = yaml.safe_load((ROOT / "chart" / "Chart.yaml").read_text())
    for name in ("test", "node"):
        matrix = jobs[name]["strategy"]["matrix"]
        oldest, newest = matrix["kubernetes"]
        assert newest == versions.DEFAULT_KUBERNETES
        assert chart["kubeVersion"] == f">={oldest.rpartition('.')[0]}.0-0"
        assert {runner.endswith("-arm") for runner in matrix["runner"]} == {True, False}


def test_verified_identity_equals_the_one_of_the_release_workflow() -> None:
    path = ROOT / ".github" / "workflows" / "release.yml"
    triggers = read_workflow(path)[True]  # YAML 1.1 reads the key `on` as true
    assert triggers == {"push": {"tags": ["v*"]}}
    [identity] = [flag for flag in verify.trust_flags(None, plain_http=False) if "certificate-identity" in flag]
    repository = project.read().repository
    assert (
        identity == f"--certificate-identity={repository}/{path.relative_to(ROOT)}@refs/tags/v{project.read().version}"
    )
    [publish] = [job for job in read_workflow(path)["jobs"].values() if "id-token" in job["permissions"]]
    assert publish["permissions"]["id-token"] == "write"


def test_make_release_packages_publishes_and_verifies_the_same_folder() -> None:
    argv = ["make", "--dry-run", "release", "TAG=v1.2.3", "IMAGES=a.tar b.tar"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.partition(" -m tools.release.")[2] for line in done.stdout.splitlines() if "tools.release" in line]
    assert lines == [
        "package --with-tools --tag v1.2.3 --output build/release --image a.tar --image b.tar",
        "publish build/release",
        "verify build/release",
    ]
