"""Finding and building the programs (with a `go` that pretends), and processes that end with their parent."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.local_cluster import BadInput, ClusterError, assets, cache, golang, servers, versions, workspace
from tools.local_cluster.__main__ import main
from tools.local_cluster.processes import Processes

DEFAULT = versions.DEFAULT_KUBERNETES
REPOSITORY = Path(__file__).parents[2]

FAKE_GO = """\
#!/bin/sh
# Pretends to be Go. $FAKE/log gets a line for each command; $FAKE/mode tells how a build goes.
echo "$PWD $*" >> "$FAKE/log"
case "$1 $2" in
"env GOVERSION") cat "$FAKE/version" ;;
"list -m")
    case "$*" in
    *@v1.99.0) echo "go: k8s.io/kubernetes@v1.99.0: invalid version: unknown revision v1.99.0" >&2; exit 1 ;;
    *) echo "$FAKE/upstream.mod" ;;
    esac ;;
"mod tidy") echo "sums of a derived graph" > go.sum ;;
"build -v")
    while [ "$1" != -o ]; do shift; done
    echo "#!/bin/sh" > "$2/kube-apiserver"; chmod +x "$2/kube-apiserver"
    case "$(cat "$FAKE/mode")" in
    fails) echo k8s.io/some/package >&2; echo "main.go:1:2: undefined: nonsense" >&2; exit 1 ;;
    hangs) echo $$ > "$FAKE/pid"; exec sleep 60 ;;
    slow) sleep 0.5 ;;
    partial) exit 0 ;;
    esac
    case "$PWD" in
    */node-*) names="kubelet kube-proxy kube-scheduler" ;;
    *) names="server kube-controller-manager kubectl" ;;
    esac
    for name in $names; do
        cp "$2/kube-apiserver" "$2/$name"
    done ;;
esac
"""

UPSTREAM = """\
module k8s.io/kubernetes
require (
\tgo.etcd.io/etcd/client/v3 v3.6.4
\tk8s.io/api v0.0.0
)
replace (
\tk8s.io/api => ./staging/src/k8s.io/api
\tk8s.io/client-go => ./staging/src/k8s.io/client-go
)
"""


class FakeGo:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "bin" / "go"
        self.program.parent.mkdir(parents=True)
        self.program.write_text(FAKE_GO)
        self.program.chmod(0o755)
        (folder / "upstream.mod").write_text(UPSTREAM)
        self.set("version", "go1.26.8")
        self.set("mode", "works")

    def set(self, name: str, value: str) -> None:
        (self.folder / name).write_text(value)

    def commands(self, start: str) -> list[str]:
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.split(" ", 1)[1].startswith(start)]


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    go = FakeGo(tmp_path / "fake")
    monkeypatch.setenv("FAKE", str(go.folder))
    monkeypatch.setenv("PATH", f"{go.program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("KUBERNETES", raising=False)
    return go


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # A zombie is gone: whoever should wait for it may be gone, too.
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def programs_in(folder: Path, version: str = DEFAULT) -> Path:
    folder.mkdir()
    for name in assets.PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho Kubernetes v{version}\n")
        (folder / name).chmod(0o755)
    return folder


class TestOrder:
    def test_the_environments_folder_comes_before_the_cache(
        self, fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assets.kubernetes()
        given = programs_in(tmp_path / "given", "1.35.3")
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
        assert assets.kubernetes() == assets.Assets(given, "1.35.3")

    def test_the_environments_folder_must_be_complete(
        self, fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = programs_in(tmp_path / "given")
        (given / "kube-controller-manager").unlink()
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
        with pytest.raises(BadInput, match=r"KUBEBUILDER_ASSETS=.*/given has no kube-controller-manager: "):
            assets.kubernetes()

    def test_the_environments_folder_must_hold_what_was_asked_for(
        self, fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(programs_in(tmp_path / "given", "1.35.3")))
        monkeypatch.setenv("KUBERNETES", "1.36.1")
        with pytest.raises(BadInput, match=r"holds Kubernetes 1\.35\.3, but 1\.36\.1 was asked for"):
            assets.kubernetes()

    def test_the_cache_comes_before_a_build(self, fake_go: FakeGo, tmp_path: Path) -> None:
        built = assets.kubernetes()
        fake_go.program.unlink()
        assert assets.kubernetes() == built
        assert built.folder == tmp_path / "cache" / "akv-secret-store" / f"{DEFAULT}-{cache.architecture()}"

    def test_the_default_cache_is_below_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/somebody")
        for ignored in ("", "relative/path"):
            monkeypatch.setenv("XDG_CACHE_HOME", ignored)
            assert cache.root() == Path("/home/somebody/.cache/akv-secret-store")


class TestBuild:
    def test_a_nodes_programs_are_built_by_themselves(self, fake_go: FakeGo) -> None:
        control_plane, node = assets.kubernetes(), assets.node(DEFAULT)
        assert node.folder == cache.root() / f"node-{DEFAULT}-{cache.architecture()}"
        assert {"kubelet", "kube-proxy", "kube-scheduler"} <= {file.name for file in node.folder.iterdir()}
        assert [command.split(" ", 1)[0] for command in fake_go.commands("build")] == [
            str(assets.PINS / DEFAULT),
            str(assets.PINS / f"node-{DEFAULT}"),
        ]
        assert (assets.kubernetes(), assets.node(DEFAULT)) == (control_plane, node)

    def test_a_pinned_release_is_built_once_from_its_pins(self, fake_go: FakeGo) -> None:
        built = assets.kubernetes()
        assert assets.kubernetes() == built
        assert built.version == DEFAULT
        assert {file.name for file in built.folder.iterdir()} == {*assets.PROGRAMS, ".made-from"}
        [command] = fake_go.commands("build")
        assert command.startswith(str(assets.PINS / DEFAULT) + " build -v -mod=readonly -trimpath ")
        assert f"-X k8s.io/component-base/version.gitVersion=v{DEFAULT} " in command

    def test_other_pins_mean_another_build(
        self, fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pins = tmp_path / "pins"
        (pins / DEFAULT).mkdir(parents=True)
        for name in ("go.mod", "go.sum"):
            (pins / DEFAULT / name).write_text((assets.PINS / DEFAULT / name).read_text())
        monkeypatch.setattr(assets, "PINS", pins)
        assets.kubernetes()
        with (pins / DEFAULT / "go.sum").open("a") as sums:
            sums.write("another module\n")
        assets.kubernetes()
        assets.kubernetes()
        assert len(fake_go.commands("build")) == 2

    def test_a_failed_build_tells_why_and_leaves_nothing(self, fake_go: FakeGo) -> None:
        fake_go.set("mode", "fails")
        with pytest.raises(ClusterError, match=r"go build failed:\nmain\.go:1:2: undefined: nonsense$"):
            assets.kubernetes()
        assert not list(cache.root().glob("*/"))
        fake_go.set("mode", "works")
        assert assets.kubernetes().path("etcd").exists()

    def test_a_build_without_all_programs_is_a_failed_one(self, fake_go: FakeGo) -> None:
        fake_go.set("mode", "partial")
        with pytest.raises(ClusterError, match="made no etcd, kube-controller-manager, kubectl"):
            assets.kubernetes()
        assert not list(cache.root().glob("*/"))

    def test_a_killed_build_is_never_used(self, fake_go: FakeGo) -> None:
        fake_go.set("mode", "hangs")
        builder = build_in_another_process()
        pid_file = fake_go.folder / "pid"
        assert eventually(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
        go = int(pid_file.read_text())
        builder.kill()
        builder.communicate()
        assert eventually(lambda: not alive(go)), "the compiler went on after its parent"
        [part] = cache.root().glob(".*.part")
        assert (part / "kube-apiserver").exists()

        fake_go.set("mode", "works")
        assert assets.kubernetes().path("kubectl").exists()
        assert len(fake_go.commands("build")) == 2
        assert not list(cache.root().glob(".*.part"))

    def test_of_two_builds_at_once_the_second_waits_and_uses_the_first(self, fake_go: FakeGo) -> None:
        fake_go.set("mode", "slow")
        builders = [build_in_another_process(), build_in_another_process()]
        answers = [builder.communicate(timeout=30) for builder in builders]
        assert [builder.returncode for builder in builders] == [0, 0], answers
        assert len({out for out, _ in answers}) == 1
        assert len(fake_go.commands("build")) == 1
        assert sum("another process is making it" in err for _, err in answers) == 1

    def test_progress_is_told_while_it_takes_long(
        self, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(golang, "_SECONDS_BETWEEN_UPDATES", 0.05)
        monkeypatch.setattr(golang, "_SECONDS_BETWEEN_LINES", 0.1)
        fake_go.set("mode", "slow")
        assets.kubernetes()
        lines = capsys.readouterr().err.splitlines()
        start = f"building the control plane of Kubernetes {DEFAULT}"
        assert len(lines) >= 3
        assert all(line.startswith(start) for line in lines)
        assert "0:00 elapsed" in lines[0]
        assert "done after 0:00" in lines[-1]


def build_in_another_process() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "from tools.local_cluster import assets; print(assets.kubernetes().folder)"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestVersions:
    @pytest.mark.parametrize("text", ["1.37", "37.2", "1.37.2-rc.1", "latest", "1.37.2/../x", "2.0.0"])
    def test_anything_but_a_release_is_refused(
        self, text: str, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBERNETES", text)
        with pytest.raises(BadInput, match=r"^KUBERNETES='.*' is not a Kubernetes release: "):
            assets.kubernetes()

    def test_the_parameter_comes_before_the_environment_and_that_before_the_default(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBERNETES", "v1.36.1")
        assert assets.requested("1.35.0") == "1.35.0"
        assert assets.requested() == "1.36.1"
        monkeypatch.setenv("KUBERNETES", "")
        assert assets.requested() == DEFAULT

    def test_an_unpinned_release_is_derived_from_its_own_go_mod(
        self, fake_go: FakeGo, capsys: pytest.CaptureFixture[str]
    ) -> None:
        built = assets.kubernetes("1.36.1")
        go_mod = (built.folder / "graph" / "go.mod").read_text()
        assert "\tk8s.io/kubernetes v1.36.1\n" in go_mod
        assert "\tgo.etcd.io/etcd/server/v3 v3.6.4\n" in go_mod
        assert "\tk8s.io/client-go => k8s.io/client-go v0.36.1\n" in go_mod
        assert (built.folder / "graph" / "go.sum").exists()
        told = capsys.readouterr().err.splitlines()
        assert told == [
            "Kubernetes 1.36.1 is not pinned in this repository: the hashes of its modules come from Go's"
            " checksum database instead"
        ]
        assert assets.kubernetes("1.36.1") == built
        assert len(fake_go.commands("build")) == 1

    def test_an_unpinned_node_has_programs_of_its_own_and_no_etcd(self, fake_go: FakeGo) -> None:
        with pytest.raises(ClusterError, match="made no kube-proxy, kube-scheduler, kubelet"):
            assets.node("1.36.1")  # the pretended Go makes them in the pins' folder alone
        go_mod = versions.go_mod("1.36.1", UPSTREAM, assets.NODE.about, assets.NODE.packages.values())
        assert go_mod.startswith("// The node's programs of Kubernetes 1.36.1: ")
        assert "\tk8s.io/kubernetes/cmd/kubelet\n" in go_mod
        assert "etcd" not in go_mod

    def test_a_release_that_does_not_exist(self, fake_go: FakeGo) -> None:
        with pytest.raises(ClusterError, match=r"^Kubernetes 1\.99\.0 cannot be had; .*unknown revision v1\.99\.0"):
            assets.kubernetes("1.99.0")
        assert not list(cache.root().glob("*/"))

    def test_a_go_mod_of_another_shape_is_refused(self) -> None:
        with pytest.raises(ClusterError, match=r"go\.mod of Kubernetes 1\.40\.0 is not like those"):
            versions.go_mod("1.40.0", UPSTREAM.replace("./staging/", "./libraries/"), "it", [])

    @pytest.mark.parametrize("pins", [*assets.PINS.glob("1.*"), *assets.PINS.glob("node-*")], ids=lambda it: it.name)
    def test_pins_name_one_release_throughout(self, pins: Path) -> None:
        version = pins.name.removeprefix("node-")
        go_mod = (pins / "go.mod").read_text()
        assert f"k8s.io/kubernetes v{version}" in go_mod
        published = [line.split()[-1] for line in go_mod.splitlines() if " => k8s.io/" in line]
        exact, series = "v0." + version.split(".", 1)[1], "v0." + version.split(".")[1] + "."
        assert published.count(exact) >= 0.8 * len(published)
        assert all(library.startswith(series) for library in published)

    def test_the_default_is_pinned(self) -> None:
        assert (assets.PINS / DEFAULT / "go.sum").exists()
        assert (assets.PINS / f"node-{DEFAULT}" / "go.sum").exists()


class TestGo:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("go1.26.8", (1, 26, 8)),
            ("go1.27", (1, 27, 0)),
            ("go1.27rc1 X:nocoverageredesign", (1, 27, 0)),
            ("x", None),
        ],
    )
    def test_version(self, text: str, expected: tuple[int, int, int] | None) -> None:
        assert versions.go_version(text) == expected

    def test_the_machines_go_is_used_as_it_is(self, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOFLAGS", "-mod=mod")
        monkeypatch.setenv("GOOS", "windows")
        found = golang.find()
        assert found.program == fake_go.program
        assert found.env["GOTOOLCHAIN"] == "local"
        assert not {"GOFLAGS", "GOOS"} & found.env.keys()

    @pytest.mark.parametrize("machine", ["none", "go1.25.9", "gibberish"])
    def test_the_wheels_go_where_the_machine_has_no_good_one(
        self, machine: str, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wheel = FakeGo(fake_go.folder / "wheel")
        if machine == "none":
            fake_go.program.unlink()
        fake_go.set("version", machine)

        def install(folder: Path) -> None:
            (folder / "go" / "bin").mkdir(parents=True)
            script = FAKE_GO.replace("$FAKE/version", f"{wheel.folder}/version")
            (folder / "go" / "bin" / "go").write_text(script)
            (folder / "go" / "bin" / "go").chmod(0o755)

        monkeypatch.setattr(golang, "_install_wheel", install)
        found = golang.find()
        assert found.program.is_relative_to(cache.root())
        assert found.program.parts[-3:] == ("go", "bin", "go")
        assert found.env["GOROOT"] == str(found.program.parents[1])

    def test_the_wheel_is_pinned_by_hash_and_without_an_address(self) -> None:
        text = golang.WHEEL.read_text()
        assert text.count("--hash=sha256:") == 2
        assert "://" not in text


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(scratch=tmp_path / "scratch")
    yield started
    started.close()


PARENT = """
import os, sys, time
from pathlib import Path
from tools.local_cluster.processes import Processes
scratch = Path(sys.argv[1])
scratch.mkdir()
processes = Processes(scratch=scratch)
pid = processes.start("sleeper", ["sleep", "60"], scratch / "log")
# A forked child holds the supervisor's stdin open; it must not keep the servers alive.
if sys.argv[2] == "forks" and os.fork() == 0:
    time.sleep(5)
    os._exit(0)
print(pid, processes._supervisor.pid, flush=True)
time.sleep(60)
"""


class TestProcesses:
    @pytest.mark.parametrize("parent_also", ["nothing", "forks"])
    def test_nothing_outlives_a_killed_parent(self, tmp_path: Path, parent_also: str) -> None:
        scratch = tmp_path / "scratch"
        with subprocess.Popen(
            [sys.executable, "-c", PARENT, str(scratch), parent_also],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert all(alive(pid) for pid in pids)
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            assert eventually(lambda: not any(alive(pid) for pid in pids), seconds=3)
        assert not scratch.exists()

    def test_nothing_outlives_a_killed_supervisor(self, processes: Processes, tmp_path: Path) -> None:
        pid = processes.start("sleeper", ["sleep", "60"], tmp_path / "log")
        processes._supervisor.kill()
        assert eventually(lambda: not alive(pid), seconds=3)
        with pytest.raises(ClusterError, match="not running any more"):
            processes.require("sleeper")

    def test_a_server_that_ends_is_reported_with_the_end_of_its_log(self, processes: Processes, tmp_path: Path) -> None:
        script = "echo first; echo Error: no such flag; echo Usage: long; exit 3"
        pid = processes.start("server", ["sh", "-c", script], tmp_path / "log")
        assert eventually(lambda: not alive(pid))
        with pytest.raises(ClusterError, match=r"^server ended with code 3:\nfirst\nError: no such flag$"):
            processes.require("server")

    def test_a_program_that_cannot_be_started(self, processes: Processes, tmp_path: Path) -> None:
        with pytest.raises(ClusterError, match=r"cannot start server: .*No such file.*nonsense"):
            processes.start("server", ["/nonsense"], tmp_path / "log")

    def test_one_that_ignores_sigterm_is_killed(self, processes: Processes, tmp_path: Path) -> None:
        script = "trap '' TERM; echo ready; while true; do sleep 0.05; done"
        pid = processes.start("stubborn", ["sh", "-c", script], tmp_path / "log")
        assert eventually(lambda: "ready" in (tmp_path / "log").read_text())
        processes.stop("stubborn", grace=0.1)
        assert not alive(pid)


class TestWorkspace:
    @pytest.fixture(autouse=True)
    def _temporary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def test_a_temporary_folder_goes_and_a_given_one_stays(self, tmp_path: Path) -> None:
        temporary = workspace.Workspace(None)
        given = workspace.Workspace(tmp_path / "given")
        assert temporary.folder.stat().st_mode & 0o777 == 0o700
        temporary.close()
        given.close()
        assert not temporary.folder.exists()
        assert given.folder.exists()

    def test_a_folder_is_for_one_control_plane_at_a_time(self, tmp_path: Path) -> None:
        first = workspace.Workspace(tmp_path / "given")
        assert workspace.in_use(first.folder)
        with pytest.raises(ClusterError, match="another control plane runs in"):
            workspace.Workspace(tmp_path / "given")
        first.close()
        assert not workspace.in_use(first.folder)
        workspace.Workspace(tmp_path / "given").close()

    def test_abandoned_folders_do_not_pile_up(self, tmp_path: Path) -> None:
        running = workspace.Workspace(None)
        abandoned, foreign = tmp_path / "akv-cluster-x", tmp_path / "akv-cluster-y"
        abandoned.mkdir()
        (abandoned / "lock").touch()
        foreign.mkdir()  # no lock: not one of ours
        workspace.Workspace(None).close()
        assert running.folder.exists()
        assert foreign.exists()
        assert not abandoned.exists()
        running.close()

    def test_a_reserved_port_is_ours_alone(self) -> None:
        with workspace.reserve_port() as reserved:
            address = reserved.getsockname()
            with socket.socket() as stranger, pytest.raises(OSError, match="Address already in use"):
                stranger.bind(address)
            with socket.socket() as client, pytest.raises(ConnectionRefusedError):
                client.connect(address)
            with socket.socket() as server, socket.socket() as client:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                server.bind(address)
                server.listen()
                client.connect(address)


def test_flags_of_the_caller_come_last(tmp_path: Path) -> None:
    layout = servers.Layout(tmp_path, tmp_path, 1, 2, 3, "https://issuer.example", ("--feature-gates=A=true",))
    flags = layout.apiserver()
    assert flags[-1] == "--feature-gates=A=true"
    assert "--service-account-issuer=https://issuer.example" in flags
    assert "--service-account-jwks-uri=https://127.0.0.1:3/openid/v1/jwks" in flags


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["kubeconfig"], 1, "error: no cluster 'default' is running; start it: tools/cluster up\n"),
        (
            ["kubectl", "--name", "x"],
            1,
            "error: no cluster 'x' is running; start it: tools/cluster up --name x\n",
        ),
        (["up", "--name", ""], 2, "error: --name '': up to 32 lower-case letters, digits and hyphens\n"),
        (
            ["up", "--name", "../x"],
            2,
            "error: --name '../x': up to 32 lower-case letters, digits and hyphens\n",
        ),
        (["up", "--kubernetes", "1.37"], 2, "error: kubernetes='1.37' is not a Kubernetes release: "),
    ],
)
def test_the_commands_errors(
    fake_go: FakeGo, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(arguments) == code
    assert capsys.readouterr().err.startswith(message)


def test_a_node_needs_root(
    fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["up", "--node"]) == 2
    assert capsys.readouterr().err == (
        "error: a node needs root, for namespaces, mounts and cgroups: run the same command with sudo\n"
    )


def test_down_and_status_where_nothing_runs(fake_go: FakeGo, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert main(["status"]) == 1
    assert capsys.readouterr().out == (
        "cluster 'default' was not running\nno cluster is running; start one: tools/cluster up\n"
    )
