"""Find, download or build the programs of a control plane and of a node, and the tools that are built like them.

The sources are, in this order: the folder in `KUBEBUILDER_ASSETS` (for the programs of the control plane only), the
cache, the official releases (official.py), and a build from Go modules. `AKV_ASSETS` forces the download or the build.
Tools are always built.

go/<version>/go.mod and go.sum pin the modules of a release. For a release without pins, the build derives a go.mod from
the release's own. It writes the go.mod and the resulting go.sum to graph/ beside the programs. To pin the release, copy
these two files to go/<version>/.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tools.local_cluster.errors import BadInput, ClusterError, DownloadError
from tools.local_cluster.programs import cache, golang, official, releases, versions

PINS = Path(__file__).with_name("go")

_MIRRORS = (
    f"if this machine does not reach the official servers, set {releases.KUBERNETES.variable} and"
    f" {releases.ETCD.variable} to the addresses of mirrors"
)


@dataclass(frozen=True)
class ProgramSuite:
    """Programs of a release that are built together. `packages` has the Go package of each program.

    go/<prefix><version>/ pins them, and their folder in the cache has the same name.
    """

    prefix: str
    about: str
    duration: str
    packages: Mapping[str, str]

    def missing(self, folder: Path) -> list[str]:
        """Return the programs that are not in `folder`."""
        return [name for name in self.packages if not os.access(folder / name, os.X_OK)]


CONTROL_PLANE = ProgramSuite(
    "",
    "the control plane",
    "once; about 15 minutes on 2 cores",
    {
        "etcd": "go.etcd.io/etcd/server/v3",
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    },
)
NODE = ProgramSuite(
    "node-",
    "the node's programs",
    "once; 2 minutes after the control plane's",
    {
        "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
        "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    },
)
PROGRAMS = tuple(CONTROL_PLANE.packages)

_GO_NAMES = {"server": "etcd"}
"""The usual names of programs by Go's names, if they differ. Go uses the last part of the package's path."""


@dataclass(frozen=True)
class ProgramFolder:
    """A folder with the programs of one suite of one release."""

    folder: Path
    version: str

    def path(self, program: str) -> Path:
        """Return the path of a program."""
        return self.folder / program


@dataclass(frozen=True)
class PinnedTool:
    """A tool pinned by go/<name>-<version>/."""

    version: str
    module: str
    link_flags: str
    data: tuple[str, ...] = ()  # folders of the module, or MODULE:FOLDER, that the tool needs beside it
    tags: str = ""


TOOLS: Mapping[str, PinnedTool] = {
    "ct": PinnedTool(
        "3.14.0",
        "github.com/helm/chart-testing/v3",
        "-s -w -X github.com/helm/chart-testing/v3/ct/cmd.Version=v3.14.0",
        ("etc",),  # chart_schema.yaml and lintconf.yaml; by default `ct lint` searches for them in /etc/ct
    ),
    "actionlint": PinnedTool("1.7.12", "github.com/rhysd/actionlint", "-s -w"),
    # The release rehearsal pushes to this registry.
    "registry": PinnedTool("3.1.2", "github.com/distribution/distribution/v3", "-s -w"),
    # helm 4. helm 3 comes as a wheel.
    "helm": PinnedTool("4.3.1", "helm.sh/helm/v4", "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1"),
    "cosign": PinnedTool("3.1.3", "github.com/sigstore/cosign/v3", "-s -w"),
    # The database of a control plane with SQLite, as in k3s. Without cgo, kine uses an implementation of SQLite in Go.
    "kine": PinnedTool("0.17.5", "github.com/k3s-io/kine", "-s -w"),
    # Its folder also has `pause`, the process in each pod's sandbox.
    "coredns": PinnedTool("1.15.0", "github.com/coredns/coredns", "-s -w"),
    # Its folder also has `promtool`. This build has no service discovery. The configuration lists the targets.
    "prometheus": PinnedTool("3.16.0", "github.com/prometheus/prometheus", "-s -w", tags="remove_all_sd,netgo"),
    # The tests of log export use these two with their CustomResourceDefinitions, and otelcol below.
    "cert-manager": PinnedTool("1.21.2", "github.com/cert-manager/cert-manager", "-s -w", ("deploy/crds",)),
    "trust-manager": PinnedTool("0.25.0", "github.com/cert-manager/trust-manager", "-s -w", ("deploy/crds",)),
    # Argo CD's own engine. Its folder also has `lua-health`, which runs Argo CD's health checks.
    "argocd-sync": PinnedTool(
        "0.0.0-20260914071520-c9c369efcc5b", "github.com/argoproj/argo-cd/gitops-engine", "-s -w"
    ),
    "kstatus": PinnedTool("0.37.2", "sigs.k8s.io/cli-utils", "-s -w"),
    # A controller of Flux with its CustomResourceDefinitions. Its folder also has `helm-controller` with its own.
    "source-controller": PinnedTool(
        "1.9.0",
        "github.com/fluxcd/source-controller",
        "-s -w",
        ("config/crd/bases", "github.com/fluxcd/helm-controller:config/crd/bases"),
    ),
    "kustomize-controller": PinnedTool(
        "1.9.0", "github.com/fluxcd/kustomize-controller", "-s -w", ("config/crd/bases",)
    ),
    "otelcol": PinnedTool("0.165.0", "go.opentelemetry.io/collector/otelcol", "-s -w"),
}


def requested_version(version: str | None = None) -> str:
    """Return the release to use: `version`, or the environment's `KUBERNETES`, or the default."""
    if version is not None:
        return versions.kubernetes_version(version, "kubernetes")
    configured = os.environ.get("KUBERNETES") or versions.DEFAULT_KUBERNETES
    return versions.kubernetes_version(configured, "KUBERNETES")


class AssetSource(Enum):
    """The source of programs that are neither in KUBEBUILDER_ASSETS nor in the cache. The values are AKV_ASSETS's."""

    DOWNLOAD = "download"
    BUILD = "build"
    DOWNLOAD_OR_BUILD = ""


def _read_choice() -> AssetSource:
    configured = os.environ.get("AKV_ASSETS", "")
    try:
        return AssetSource(configured)
    except ValueError as error:
        raise BadInput(
            f"AKV_ASSETS={configured!r} is not known: set it to download or build, or unset it to download programs and"
            " to build them if the download fails"
        ) from error


def kubernetes(version: str | None = None) -> ProgramFolder:
    """Return the programs of the control plane in the requested release. The first call can take minutes."""
    choice = _read_choice()
    if given := os.environ.get("KUBEBUILDER_ASSETS"):
        explicit = version or os.environ.get("KUBERNETES")
        return _check_folder(Path(given), requested_version(version) if explicit else None)
    return _get_suite(CONTROL_PLANE, requested_version(version), choice)


def node(version: str) -> ProgramFolder:
    """Return the programs that a node of that release needs in addition to those of the control plane."""
    return _get_suite(NODE, version, _read_choice())


def _get_suite(suite: ProgramSuite, version: str, choice: AssetSource) -> ProgramFolder:
    name = f"{suite.prefix}{version}"
    pins = PINS / name
    recipe = _recipe_files(pins) if pins.is_dir() else versions.GO_MOD
    flags = versions.kubernetes_link_flags(version)

    def make(folder: Path) -> None:
        go = golang.find_go()
        graph = pins if pins.is_dir() else _derive_pins(go, suite, version, folder / "graph")
        _build_programs(go, graph, folder, flags, f"building {suite.about} of Kubernetes {version} ({suite.duration})")
        if missing := suite.missing(folder):
            raise ClusterError(
                f"the build succeeded but did not create {', '.join(missing)}: check the tool block of its go.mod"
            )

    stamp, built = _recipe_stamp(recipe, flags), f"{name}-{cache.machine_architecture()}"
    if choice is not AssetSource.DOWNLOAD and (folder := cache.find(built, stamp)):
        return ProgramFolder(folder, version)
    if choice is not AssetSource.BUILD:
        release = official.OfficialRelease(suite.about, tuple(suite.packages), version, _etcd_version(version))
        try:
            return ProgramFolder(release.populate(f"downloaded-{built}"), version)
        except DownloadError as error:
            if choice is AssetSource.DOWNLOAD:
                raise ClusterError(
                    f"{suite.about} of Kubernetes {version} cannot be downloaded: {error}\n{_MIRRORS}; or unset"
                    " AKV_ASSETS to build it from source"
                ) from error
            print(f"{suite.about} of Kubernetes {version} is not downloaded: {error}; building it", file=sys.stderr)
    return ProgramFolder(cache.populate(built, stamp, make), version)


def _etcd_version(version: str) -> str:
    """Return the version of etcd to download, which is the version that a build of a pinned release uses."""
    pins = PINS / version
    return versions.etcd_of(
        (pins if pins.is_dir() else PINS / versions.DEFAULT_KUBERNETES).joinpath("go.mod").read_text()
    )


def tool(name: str) -> Path:
    """Return the path of a tool of TOOLS. The folders in `data` are beside it."""
    about = TOOLS[name]
    pins = PINS / f"{name}-{about.version}"

    def make(folder: Path) -> None:
        go = golang.find_go()
        doing = f"building {name} {about.version} (once; a few minutes)"
        _build_programs(go, pins, folder, about.link_flags, doing, about.tags)
        for data in about.data:
            module, _, inner = data.rpartition(":")
            source = Path(go.output("list", "-m", "-f", "{{.Dir}}", module or about.module, cwd=pins).strip())
            # Files in the module cache are read-only. copyfile does not copy the mode.
            shutil.copytree(source / inner, folder / inner, copy_function=shutil.copyfile, dirs_exist_ok=True)
            (folder / inner).chmod(0o755)

    stamp = _recipe_stamp(_recipe_files(pins), about.link_flags, *filter(None, [about.tags]))
    return cache.populate(f"{name}-{about.version}-{cache.machine_architecture()}", stamp, make) / name


def _check_folder(folder: Path, wanted: str | None) -> ProgramFolder:
    if missing := CONTROL_PLANE.missing(folder):
        raise BadInput(
            f"KUBEBUILDER_ASSETS={folder} has no {', '.join(missing)}: add it (setup-envtest does not provide"
            " kube-controller-manager), or unset KUBEBUILDER_ASSETS to download or build all programs"
        )
    program = folder / "kube-apiserver"
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = re.fullmatch(r"Kubernetes v(\S+)", answer.stdout.strip())
    if not match:
        output = (answer.stdout + answer.stderr).strip()
        raise ClusterError(f"{program} --version does not print its version: {output}")
    if wanted not in (None, match[1]):
        raise BadInput(
            f"KUBEBUILDER_ASSETS={folder} has Kubernetes {match[1]}, but {wanted} was requested: unset one of them"
        )
    return ProgramFolder(folder.absolute(), match[1])


def _derive_pins(go: golang.GoToolchain, suite: ProgramSuite, version: str, graph: Path) -> Path:
    print(
        f"Kubernetes {version} is not pinned in this repository: the hashes of its modules come from Go's"
        " checksum database instead",
        file=sys.stderr,
    )
    graph.mkdir()
    try:
        query = ("list", "-m", "-f", "{{.GoMod}}", f"k8s.io/kubernetes@v{version}")
        upstream = go.output(*query, cwd=graph).strip()
    except ClusterError as error:
        raise ClusterError(
            f"the modules of Kubernetes {version} cannot be downloaded; check that the release exists: {error}"
        ) from error
    packages = suite.packages.values()
    (graph / "go.mod").write_text(versions.go_mod(version, Path(upstream).read_text(), suite.about, packages))
    go.run("mod", "tidy", cwd=graph, doing=f"resolving the modules of Kubernetes {version}")
    return graph


def _build_programs(
    go: golang.GoToolchain, graph: Path, folder: Path, link_flags: str, doing: str, tags: str = ""
) -> None:
    # With -mod=readonly, a module whose hash is not in go.sum fails the build.
    flags = ["-v", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", tags, "-ldflags", link_flags]
    go.run("build", *flags, "-o", f"{folder}/", "tool", cwd=graph, doing=f"{doing} with {go.version}")
    for built, known in _GO_NAMES.items():
        if (folder / built).exists():
            (folder / built).rename(folder / known)


def _recipe_files(pins: Path) -> str:
    return "".join(path.read_text() for path in (pins / "go.mod", pins / "go.sum", *sorted(pins.glob("*/*.go"))))


def _recipe_stamp(*recipe: str) -> str:
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()
