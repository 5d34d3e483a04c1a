"""Run as a node's first process. It is started by its path, like supervisor.py, and imports nothing of this repository.

    python node_init.py NODE.json          prepares cgroups, and then runs:
    python node_init.py NODE.json inside   is pid 1 of its own namespaces, and starts the node's servers

The node's mounts, its processes and its changes to /run, /var and /etc are visible only inside these namespaces, and
end with this process. The file has these fields: `namespace` is the network namespace, `cgroup` the name of the node's
cgroups, `hostname` the node's name, `servers` the command lines of the servers by name, `containerd_socket` the socket
of containerd, `image` the archive that containerd imports before the next server starts, and `logs` the folder of the
logs. This process ends when one of the servers ends, and the kernel then ends the others.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

_CGROUPS = Path("/sys/fs/cgroup")
_UNSHARED = ("mount", "pid", "ipc", "uts", "cgroup")
_OPTIONS_OF_ALL = {"rw", "xattr", "noprefix", "clone_children"}


class CgroupMount(NamedTuple):
    """A mounted cgroup file system of version 1 or 2."""

    kind: str
    options: str
    root: str
    place: Path

    @property
    def controllers(self) -> set[str]:
        """Return the controllers of a file system of version 1."""
        return set(self.options.split(",")) - _OPTIONS_OF_ALL


def main() -> NoReturn:
    """Prepare the cgroups and enter the namespaces, or start the servers inside them."""
    config = json.loads(Path(sys.argv[1]).read_text())
    if sys.argv[2:] == ["inside"]:
        run_servers(config)
    for folder in cgroup_folders(config["cgroup"]):
        _join_cgroup(folder)
    command = ["nsenter", f"--net={config['namespace']}", "unshare", *(f"--{name}" for name in _UNSHARED)]
    command += ["--fork", "--kill-child", "--mount-proc", sys.executable, "-I", __file__, sys.argv[1], "inside"]
    os.execvp(command[0], command)  # noqa: S606


def cgroup_folders(name: str) -> list[Path]:
    """Return the node's cgroup in each hierarchy of this machine.

    In version 1 it is below the caller's cgroup. In version 2 it is below the root, because a cgroup that has processes
    cannot pass controllers to the cgroups below it.
    """
    own = [line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    folders = []
    for hierarchy in _find_hierarchies():
        if hierarchy.kind == "cgroup":
            [path] = [path for names, path in own if names and set(names.split(",")) <= hierarchy.controllers]
            folders.append(hierarchy.place / os.path.relpath(path, hierarchy.root) / name)
        elif hierarchy.place == _CGROUPS:
            folders.append(hierarchy.place / name)
    return folders


def run_servers(config: dict[str, Any]) -> NoReturn:
    """Start the node's servers as its pid 1. Exit when one of them ends."""
    # These files are opened before the mounts, because the mounts can hide their folder.
    logs = {name: Path(config["logs"], f"{name}.log").open("ab") for name in config["servers"]}  # noqa: SIM115
    image = Path(config["image"]).open("rb")  # noqa: SIM115
    _mount_cgroups()
    ctypes.CDLL(None).sethostname(config["hostname"].encode(), len(config["hostname"]))
    servers = {}
    for name, argv in config["servers"].items():
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=logs[name], stderr=logs[name])
        servers[process.pid] = name
        if name == "containerd":
            _import_image(process, config["containerd_socket"], image)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Orphans of containerd's shims also become children of this process.
    while True:
        pid, status = os.wait()
        if name := servers.get(pid):
            last = Path(logs[name].name).read_text(errors="replace").splitlines()[-4:]
            sys.exit(f"{name} ended with code {os.waitstatus_to_exitcode(status)}:\n" + "\n".join(last))


def _import_image(containerd: "subprocess.Popen[bytes]", socket: str, image: BinaryIO) -> None:
    """Import the image before the kubelet starts. A kubelet that finds the import's temporary mount ends."""
    while containerd.poll() is None and not Path(socket).exists():
        time.sleep(0.01)
    command = ["ctr", f"--address={socket}", "--namespace=k8s.io", "images", "import", "-"]
    done = subprocess.run(command, stdin=image, capture_output=True, check=False)
    # If containerd has ended, the caller reports the end of its log.
    if done.returncode and containerd.poll() is None:
        sys.exit(f"the image cannot be imported: {done.stderr.decode(errors='replace').strip()}")


def _mount_cgroups() -> None:
    hierarchies = _find_hierarchies()
    # The containers' namespaces need shared mounts. This machine does not see them, because unshare made all mounts
    # private.
    _run_command("mount", "--make-rshared", "/")
    _run_command("mount", "-t", "sysfs", "sysfs", "/sys")
    if any(hierarchy.kind == "cgroup" for hierarchy in hierarchies):
        _run_command("mount", "-t", "tmpfs", "cgroups", str(_CGROUPS))
        for hierarchy in hierarchies:
            if hierarchy.kind == "cgroup":
                hierarchy.place.mkdir(parents=True, exist_ok=True)
                named = ["none"] if any("=" in name for name in hierarchy.controllers) else []
                options = ",".join([*named, *sorted(hierarchy.controllers)])
                _run_command("mount", "-t", "cgroup", "-o", options, "cgroup", str(hierarchy.place))
    else:
        _run_command("mount", "-t", "cgroup2", "cgroup2", str(_CGROUPS))
        leaf = _CGROUPS / "init"
        leaf.mkdir()
        (leaf / "cgroup.procs").write_text("1")
        controllers = (_CGROUPS / "cgroup.controllers").read_text().split()
        (_CGROUPS / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    _run_command("mount", "-t", "tmpfs", "-o", "mode=755", "node", "/run")
    for place in ("var", "etc"):
        upper, work = Path("/run", f".{place}", "upper"), Path("/run", f".{place}", "work")
        upper.mkdir(parents=True)
        work.mkdir()
        _run_command(
            "mount", "-t", "overlay", "-o", f"lowerdir=/{place},upperdir={upper},workdir={work}", "node", f"/{place}"
        )


def _find_hierarchies() -> list[CgroupMount]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        if kind in ("cgroup", "cgroup2"):
            _, _, _, root, place = before.split()[:5]
            found.append(CgroupMount(kind, options, root, Path(place)))
    return found


def _join_cgroup(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    # A new cpuset of version 1 has no CPUs and no memory, and accepts no process until it has both.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (folder / name).exists() and not (folder / "cgroup.controllers").exists():
            (folder / name).write_text((folder.parent / name).read_text())
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def _run_command(*argv: str) -> None:
    subprocess.run(argv, check=True)


if __name__ == "__main__":
    main()
