"""Install Debian's packages for programs that are not built here. No other module installs anything on the machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BUILDER: Mapping[str, str] = {"buildah": "buildah", "unshare": "util-linux"}
DEBIAN_BASE: Mapping[str, str] = {"mmdebstrap": "mmdebstrap"}
ARM64: Mapping[str, str] = {"qemu-aarch64-static": "qemu-user-static"}
NODE: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
}
PROXY: Mapping[str, Mapping[str, str]] = {"nftables": {"nft": "nftables"}, "iptables": {"iptables": "iptables"}}
"""Programs, or their paths, with the package of each. Those of kube-proxy depend on its mode."""

PROGRAM_PATHS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class MissingPackagesError(Exception):
    """A package is missing, and this process cannot install it. The message has the command."""


def require(programs: Mapping[str, str]) -> None:
    """Install the packages of missing programs, if this process is root and apt-get exists."""
    missing = _missing_packages(programs)
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    shown = f"sudo apt-get update && sudo {' '.join(command)}"
    if not shutil.which("apt-get"):
        raise MissingPackagesError(
            f"{', '.join(missing)}: missing, and there is no apt-get here to install it; on Debian: {shown}"
        )
    if os.geteuid() != 0:
        raise MissingPackagesError(f"{', '.join(missing)}: missing; as root: {shown}")
    print(f"installing on this machine: {' '.join(missing)} ...", file=sys.stderr, flush=True)
    for argv in (["apt-get", "update", "--quiet"], [*command, "--quiet"]):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise MissingPackagesError(f"{' '.join(argv)} failed: {' '.join(said)}; then try: {shown}")
    if still := _missing_packages(programs):
        raise MissingPackagesError(f"{', '.join(still)}: installed, but its programs are not where they were expected")


def _missing_packages(programs: Mapping[str, str]) -> list[str]:
    return sorted({package for program, package in programs.items() if not _is_installed(program)})


def _is_installed(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else bool(shutil.which(program, path=PROGRAM_PATHS))
