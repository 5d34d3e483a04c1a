"""Rehearse a release: do what .github/workflows/release.yml does, against a registry and a node of this machine.

The images are built. The release is packaged, published, signed with a new key, and verified. Then helm installs the
chart from the registry on a node, which pulls the image by its digest, and `helm test` syncs a secret. Nothing leaves
the machine.
"""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.cli.common import command, helm
from tools.images import image
from tools.images.debian_base import DebianBaseError
from tools.local_cluster import ClusterError, ControlPlane
from tools.local_cluster.nodes import system_packages
from tools.local_cluster.nodes.system_packages import MissingPackagesError
from tools.local_cluster.programs import assets
from tools.release import layout, local_registry, package, publish, verify
from tools.release import manifest as release_manifest

NAMESPACE = "release-rehearsal"
_TIMEOUT = "5m"


class RehearsalError(Exception):
    """A step of the release failed. The message names it."""


def make_key(folder: Path) -> Path:
    """Create a key pair of cosign. Its password is COSIGN_PASSWORD, or a random one if that is not set."""
    os.environ.setdefault("COSIGN_PASSWORD", secrets.token_hex())
    subprocess.run([assets.tool("cosign"), "generate-key-pair"], cwd=folder, check=True, capture_output=True)
    return folder / "cosign.key"


def make_release(folder: Path, registry: str, archives: Sequence[Path], key: Path) -> Path:
    """Package the release for a registry, publish it, and verify it there. Return its folder."""
    system_packages.require({"skopeo": "skopeo"})
    into = folder / "release"
    images = [f"--image={archive}" for archive in archives]
    _run_step("tools/package", package.main(["--changed", f"--output={into}", f"--registry={registry}", *images]))
    _run_step("tools/publish", publish.main([str(into), f"--key={key}", "--plain-http"]))
    public = key.with_suffix(".pub")
    _run_step("tools/verify-release", verify.main([str(into), f"--key={public}", "--plain-http"]))
    return into


def install(plane: ControlPlane, folder: Path) -> str:
    """Install the release from its registry on the node and run its test. Return the output of the test."""
    manifest = release_manifest.read(folder)
    [running] = [one for one in manifest.artifacts if one.repository == layout.NAME]
    plane.node.pull_by_http(manifest.registry.partition("/")[0])
    at = ["--namespace", NAMESPACE, "--kubeconfig", str(plane.kubeconfig)]
    chart = [f"oci://{manifest.registry}/{layout.CHART}", "--version", manifest.version, "--plain-http"]
    helm.run(["install", NAMESPACE, *chart, *at, "--create-namespace", "--wait", "--timeout", _TIMEOUT])
    try:
        pods = ["get", "pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/component=controller"]
        pulled = plane.kubectl(*pods, "--output", "jsonpath={.items[*].status.containerStatuses[*].imageID}")
        if pulled != manifest.reference(running):
            raise RehearsalError(f"the node runs {pulled}, not {manifest.reference(running)}")
        return _test_release(plane, at)
    finally:
        helm.run(["uninstall", NAMESPACE, *at, "--wait", "--timeout", _TIMEOUT])
        plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _test_release(plane: ControlPlane, at: Sequence[str]) -> str:
    try:
        return helm.run(["test", NAMESPACE, *at, "--logs", "--timeout", _TIMEOUT])
    except helm.HelmError as error:
        pod = f"{NAMESPACE}-{layout.NAME}-test"
        log = plane.kubectl("logs", pod, "--namespace", NAMESPACE, "--all-containers", check=False)
        raise RehearsalError(f"helm test: {error}\n{log}") from error


def rehearse(plane: ControlPlane, archives: Sequence[Path], folder: Path) -> None:
    """Rehearse a release of these images with the node of that control plane."""
    (folder / "registry").mkdir()
    with local_registry.serve(folder / "registry", plane.node.network.host) as address:
        made = make_release(folder, f"{address}/akv", archives, make_key(folder))
        print(install(plane, made), end="")


def _run_step(name: str, code: int) -> None:
    if code:
        raise RehearsalError(f"{name} failed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    parser = command.ToolParser(
        prog="make release-rehearsal",
        description="Build the images, package, publish, sign, verify and install a release with a registry and a node"
        " of this machine. Needs root.",
        epilog="Exit codes: 0 the release works; 1 a step failed; 2 wrong usage.",
    )
    parser.add_argument(
        "--base", default=image.DEBIAN, metavar="IMAGE", help="as for tools/image (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="akv-rehearsal-") as scratch:
            folder = Path(scratch)
            archives = [folder / f"{target}.tar" for target in image.REPOSITORIES]
            for target, archive in zip(image.REPOSITORIES, archives, strict=True):
                print(image.build_image(archive, base=options.base, target=target), flush=True)
            (folder / "plane").mkdir()
            with ControlPlane(folder / "plane", with_node=True) as plane:
                rehearse(plane, archives, folder)
    except (
        RehearsalError,
        image.ImageError,
        DebianBaseError,
        MissingPackagesError,
        ClusterError,
        helm.HelmError,
    ) as error:
        command.print_problem("make release-rehearsal", error)
        return 1
    print(f"the release works: built, published, verified and installed in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
