"""Test the output, the files and the errors of tools/render, and compare them with helm."""

import functools
import json
import os
import re
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.runtime import bounded_yaml
from tests.chart.rendering import parse_objects
from tools import lint
from tools.cli.common import helm
from tools.cli.render import render

MATRIX = {
    "defaults": [],
    "another namespace and release": ["--namespace", "elsewhere", "--release", "mine"],
    "1.30": ["--kube-version", "1.30.0"],
    "without CRDs": ["--no-include-crds"],
    "without hooks": ["--no-hooks"],
    "values": ["--set", "jitterSeconds=5,logLevel=debug", "--set-string", "podLabels.number=1"],
    "later flag overrides": ["--set", "image.tag=a", "--set-string", "image.tag=b"],
    "json": ["--set-json", 'tolerations=[{"key": "edge", "operator": "Exists"}]'],
    **{path.stem: ["--values", str(path), "--kube-version", lint.kube_version(path)] for path in lint.VALUES.glob("*")},
}


def run(*args: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the tool as users do, from another folder and without helm on the PATH."""
    return subprocess.run(
        [lint.ROOT / "tools" / "render", *args],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def render_with_helm(arguments: list[str], folder: Path) -> list[dict[str, Any]]:
    """Translate the flags to those of helm, and return the objects that helm renders."""
    words = ["mine" if "mine" in arguments else helm.RELEASE, str(helm.CHART)]
    if "--namespace" not in arguments:
        words += ["--namespace", helm.RELEASE]
    if "--kube-version" not in arguments:
        words += ["--kube-version", render.RenderOptions().kube_version]
    if "--no-include-crds" not in arguments:
        words += ["--include-crds"]
    given = iter(arguments)
    for word in given:
        if word == "--release":
            next(given)
        elif word != "--no-include-crds":
            words.append(word)
    command = [str(helm.find_executable()), "template", "--skip-tests", *words]
    done = subprocess.run(command, env=helm.isolated_environment(folder), check=True, capture_output=True, text=True)
    return parse_objects(done.stdout)


def serialize(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


def identify(document: dict[str, Any]) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]


@pytest.mark.parametrize("arguments", MATRIX.values(), ids=MATRIX.keys())
def test_rendered_objects_equal_those_of_helm_template(arguments: list[str], tmp_path: Path) -> None:
    done = run(*arguments)
    assert done.stderr == ""
    rendered = list(yaml.load_all(done.stdout, Loader=bounded_yaml.LOADER))
    expected = render_with_helm(arguments, tmp_path)
    assert Counter(map(serialize, rendered)) == Counter(map(serialize, expected))
    assert len(set(map(identify, rendered))) == len(rendered) > 5
    assert [manifest.object for manifest in render_cached(*arguments)] == rendered


@functools.cache
def render_cached(*arguments: str) -> list[render.RenderedObject]:
    """Return the objects for these flags. Tests with the same flags share one result."""
    return render.render(parse_options([*arguments]))


def parse_options(arguments: list[str]) -> render.RenderOptions:
    parser = render.parser()
    return render.options(parser.parse_args(arguments))


@pytest.mark.parametrize("arguments", MATRIX.values(), ids=MATRIX.keys())
def test_every_namespaced_object_names_its_namespace(arguments: list[str]) -> None:
    for manifest in render_cached(*arguments):
        cluster_wide = manifest.kind.startswith(("ClusterRole", "CustomResource", "Validating", "Bundle"))
        assert bool(manifest.namespace) is not cluster_wide, manifest.file


def test_policies_come_before_the_workloads_that_they_restrict(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    done = run("--create-namespace", "--output", folder)
    assert done.returncode == 0, done.stderr
    kinds = [yaml.safe_load(path.read_text())["kind"] for path in sorted(folder.iterdir())]
    assert kinds[0] == "Namespace"
    order = [kinds.index(kind) for kind in render.APPLY_ORDER if kind in kinds]
    assert order == sorted(order)
    for first, then in (
        ("CustomResourceDefinition", "ClusterRole"),
        ("ServiceAccount", "ClusterRoleBinding"),
        ("ClusterRoleBinding", "Deployment"),
        ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
        ("ValidatingAdmissionPolicyBinding", "Deployment"),
        ("ValidatingAdmissionPolicyBinding", "Job"),
    ):
        assert max(i for i, kind in enumerate(kinds) if kind == first) < kinds.index(then)
    assert done.stderr.strip() == f"{len(kinds)} files in {folder}"


def test_kubernetes_version_decides_whether_policies_are_rendered() -> None:
    oldest = ["--kube-version", "1.27.16", "--set", "acceptUnrestrictedTokens=true"]
    assert "ValidatingAdmissionPolicy" not in {manifest.kind for manifest in render_cached(*oldest)}
    assert "ValidatingAdmissionPolicy" in {manifest.kind for manifest in render_cached()}


def test_images_are_listed_for_mirroring() -> None:
    done = run("--images", "--set-string", "image.registry=mirror.example,image.repository=akv,image.tag=1")
    assert done.stdout == "mirror.example/akv-secret-store-test:0.1.0\nmirror.example/akv:1\n"
    digest = "sha256:" + "0" * 64
    values = f"image.registry=mirror.example,image.repository=akv,image.digest={digest},test.enabled=false"
    assert run("--images", "--set", values).stdout == f"mirror.example/akv@{digest}\n"


def test_values_are_read_from_standard_input() -> None:
    done = run("--values", "-", stdin="jitterSeconds: 12345\n")
    assert done.returncode == 0, done.stderr
    assert '"12345"' in done.stdout


@pytest.mark.parametrize("flag", ["--values", "--set-file"])
@pytest.mark.parametrize("path", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_open_file_that_helm_would_find_empty_is_refused(flag: str, path: str) -> None:
    done = run(flag, f"clouds.x.ca={path}" if flag == "--set-file" else path, stdin="jitterSeconds: 12345\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"tools/render: {path}: is a pipe or an open file, which helm cannot read" in done.stderr


def test_pipe_that_helm_would_find_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert render.main(["--values", str(tmp_path / "pipe")]) == 2
    assert f"{tmp_path}/pipe: is a pipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--set", "jitterSeconds=-1"], r"jitterSeconds: "),
        (["--set", "logLevel=loud"], r"logLevel: .*\"debug\""),
        (
            ["--set", "clouds.x.authority=http://a,clouds.x.vaultUrl=https://{vault}.b"],
            r"clouds\.x\.authority: .*https.*Entra's address",
        ),
        (["--set", "clouds.x.authority=https://a"], r"clouds\.x\.vaultUrl: is required"),
        (["--set", "jiterSeconds=1"], r"jiterSeconds: there is no such value; did you mean jitterSeconds\?"),
        (["--set", "image.digests=x"], r"no such value; did you mean image\.digest\?"),
        (["--set", "image.zzz=x"], r"image\.zzz: there is no such value; chart/values\.yaml"),
        (["--set", "image=x"], r"image: .*object"),
        (["--set", "image"], r"failed parsing --set data: .*no value"),
        (["--set-file", "clouds.x.ca=/nowhere"], r"/nowhere: cannot be read: No such file"),
        (["--set-file", "clouds.x.ca"], r"--set-file clouds\.x\.ca: expected PATH=FILE"),
        (["--set-file", "clouds.x.ca=-"], r"--set-file clouds\.x\.ca=-: expected PATH=FILE"),
        (["--set-file", "logLevel=/dev/null,clouds.x.ca=/usr"], r"/usr: cannot be read: Is a directory"),
        (["--set-file", f"clouds.x.ca={sys.executable}"], r"python.*: cannot be read: it is not text"),
        (["--set", "defaultCloud=Moon"], r"defaultCloud: Moon .*AzurePublicCloud"),
        (["--kube-version", "1.27.16"], r"acceptUnrestrictedTokens"),
        (["--kube-version", "1.20.0"], r"kubeVersion"),
        (["--kube-version", "new"], r"new"),
        (["--namespace", "Capital"], r"--namespace Capital: .*a-z"),
        (["--release", "under_score"], r"--release under_score: .*a-z"),
        (["--release", "a" * 54], r"--release a+: .*53"),
        (["--release=--help"], r"--release --help: .*a-z"),
        (["--values", "/nowhere/values.yaml"], r"/nowhere/values\.yaml: cannot be read: No such file"),
        (["--values", "/usr"], r"/usr: cannot be read: Is a directory"),
        (["--values", "https://host.example/values.yaml"], r"https://host.example/values.yaml: cannot be read"),
    ],
)
def test_invalid_option_is_one_readable_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (message,) = err.splitlines()
    assert message.startswith("tools/render: ")
    assert len(message) < 500
    assert ".go" not in message
    assert re.search(line, message), message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a: b: c\n", "mapping values are not allowed"),
        (b"- 1\n", "its top level must be a mapping (found: array)"),
        (b"\xff\x00", "it is not text"),
        (b"\n", "is empty"),
        (b"logLevel: info\n---\nlogLevel: debug\n", "has several documents"),
        (b"image:\n  tag: a\n  tag: b\n", "line 3: tag is set twice"),
        (b"podLabels: [{a: b, a: c}]\n", "line 1: a is set twice"),
    ],
)
def test_unusable_values_file_is_named(
    tmp_path: Path, text: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "values.yaml"
    path.write_bytes(text)
    assert render.main(["--values", str(path)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert str(path) in message
    assert reason in message


def test_error_of_helm_without_a_value_name_is_reported() -> None:
    output = "Error: values don't meet the specifications of the schema(s)\nchart:\nyaml: control characters\n"
    assert str(helm.parse_error(output)) == "yaml: control characters"


def test_several_invalid_values_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main(["--set", "jitterSeconds=-1,logLevel=loud,nothing=1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_error_in_a_template_is_not_reported_as_an_invalid_value(tmp_path: Path) -> None:
    error = helm.parse_error("Error: template: a/b.yaml:1:2: executing ... nil pointer\n\nUse --debug flag to ...\n")
    assert not isinstance(error, helm.BadValues)
    assert "nil pointer" in str(error)
    assert "--debug" not in str(error)


@pytest.mark.parametrize("text", ["a: 1\n", "- a\n", "kind: X\n", "kind: X\nmetadata: {}\n"])
def test_document_that_is_not_an_object_is_reported_as_a_bug(text: str) -> None:
    with pytest.raises(helm.HelmError, match="please report it"):
        list(render.split(f"kind: A\nmetadata: {{name: b}}\n---\n{text}"))


def test_empty_documents_are_left_out() -> None:
    (only,) = render.split("---\n# nothing\n---\nkind: A\nmetadata: {name: b:c}\n--- \n\n")
    assert only.object == {"kind": "A", "metadata": {"name": "b:c"}}
    assert only.file == "18-a-b-c.yaml"


def test_output_folder_that_is_not_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert render.main(["--output", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_force_replaces_only_files_that_the_tool_wrote(tmp_path: Path) -> None:
    assert render.main(["--output", str(tmp_path)]) == 0
    before = {path.name for path in tmp_path.iterdir()}
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "99-mine.yaml").write_text("a: 1\n")
    assert render.main(["--output", str(tmp_path), "--force", "--no-include-crds", "--set", "logLevel=debug"]) == 0
    after = {path.name for path in tmp_path.iterdir()}
    assert before - after == {name for name in before if "customresourcedefinition" in name}
    assert after - before == {"notes.txt", "99-mine.yaml"}
    (deployment,) = (path.read_text() for path in tmp_path.glob("*-deployment-*"))
    assert 'value: "debug"' in deployment


def test_force_does_not_overwrite_an_edited_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main(["--output", str(tmp_path)]) == 0
    (taken,) = tmp_path.glob("*-deployment-*")
    taken.write_text("mine: true\n")
    texts = {path: path.read_text() for path in tmp_path.iterdir()}
    assert render.main(["--output", str(tmp_path), "--force", "--set", "logLevel=debug"]) == 2
    assert f"{taken.name} is in the way" in capsys.readouterr().err
    assert {path: path.read_text() for path in tmp_path.iterdir()} == texts


def test_file_as_output_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    assert render.main(["--output", str(file)]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_force_without_output_is_refused() -> None:
    assert run("--force").returncode == 2


def test_invalid_values_write_no_files(tmp_path: Path) -> None:
    assert render.main(["--output", str(tmp_path / "new"), "--set", "nothing=1"]) == 2
    assert not (tmp_path / "new").exists()


def test_helm_variables_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = render.render(render.RenderOptions())
    monkeypatch.setenv("HELM_NAMESPACE", "elsewhere")
    monkeypatch.setenv("HELM_DEBUG", "true")
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert render.render(render.RenderOptions()) == plain


def test_render_takes_less_than_a_second_of_cpu_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run().returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time does not depend on other work of the machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
