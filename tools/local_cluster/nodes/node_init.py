"""A node's first process: started by its path, alone, like supervisor.py.

    python node_init.py NODE.json          prepares cgroups, and becomes ...
    python node_init.py NODE.json inside   ... pid 1 of namespaces of its own, which starts the node's servers

What the node mounts, writes to /run, /var and /etc, and starts, is seen inside alone and gone with this process. The
file says: `namespace` the network's, `cgroup` the name of the node's cgroups, `hostname`, `servers` their command lines
by name, `containerd_socket` where containerd listens, `image` the archive that it imports before the next server is
started, `logs` the folder of their logs. This process ends when one of the servers ends, and everything ends with it.
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
    """A cgroup file system that is mounted: version 2's, or one of version 1's."""

    kind: str
    options: str
    root: str
    place: Path

    @property
    def controllers(self) -> set[str]:
        """Those of version 1."""
        return set(self.options.split(",")) - _OPTIONS_OF_ALL


def main() -> NoReturn:
    """Outside or inside."""
    config = json.loads(Path(sys.argv[1]).read_text())
    if sys.argv[2:] == ["inside"]:
        inside(config)
    for folder in cgroup_folders(config["cgroup"]):
        _join_cgroup(folder)
    command = ["nsenter", f"--net={config['namespace']}", "unshare", *(f"--{name}" for name in _UNSHARED)]
    command += ["--fork", "--kill-child", "--mount-proc", sys.executable, "-I", __file__, sys.argv[1], "inside"]
    os.execvp(command[0], command)  # noqa: S606


def cgroup_folders(name: str) -> list[Path]:
    """The node's cgroup in each hierarchy of this machine, below the caller's own.

    In version 2 a group that has processes can have no groups with controllers: there it is below the root.
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


def inside(config: dict[str, Any]) -> NoReturn:
    """Be the node's pid 1."""
    # Opened before the mounts: the folder may lie below one of them.
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
    # What containerd's shims leave behind becomes a child of this process, too.
    while True:
        pid, status = os.wait()
        if name := servers.get(pid):
            last = Path(logs[name].name).read_text(errors="replace").splitlines()[-4:]
            sys.exit(f"{name} ended with code {os.waitstatus_to_exitcode(status)}:\n" + "\n".join(last))


def _import_image(containerd: "subprocess.Popen[bytes]", socket: str, image: BinaryIO) -> None:
    """Import the image before the kubelet starts: a kubelet that meets the import's temporary mount ends."""
    while containerd.poll() is None and not Path(socket).exists():
        time.sleep(0.01)
    command = ["ctr", f"--address={socket}", "--namespace=k8s.io", "images", "import", "-"]
    done = subprocess.run(command, stdin=image, capture_output=True, check=False)
    # Where containerd has ended, the caller reports its last lines.
    if done.returncode and containerd.poll() is None:
        sys.exit(f"the image cannot be imported: {done.stderr.decode(errors='replace').strip()}")


def _mount_cgroups() -> None:
    hierarchies = _find_hierarchies()
    # For the containers' namespaces; this machine sees nothing of it, since unshare has made everything private.
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
    # A new cpuset of version 1 is empty, and takes nobody in before it isn't.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (folder / name).exists() and not (folder / "cgroup.controllers").exists():
            (folder / name).write_text((folder.parent / name).read_text())
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def _run_command(*argv: str) -> None:
    subprocess.run(argv, check=True)


if __name__ == "__main__":
    main()
