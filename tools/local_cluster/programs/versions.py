"""Version numbers of Kubernetes and Go, and the go.mod of a Kubernetes release. This module reads no files."""

import re
from collections.abc import Collection

from tools.local_cluster.errors import BadInput, ClusterError

DEFAULT_KUBERNETES = "1.37.2"
"""The release of the control plane, unless `KUBERNETES` or `--kubernetes` names another one."""

MINIMUM_GO = "1.26.1"
"""The minimum version of Go. Every go.mod contains it, and older versions are not used."""

GO_MOD = """\
// {about} of Kubernetes {version}: which programs, out of which modules. go.sum holds their hashes.
// Kubernetes is built in a tree where its libraries are replaced by folders; here each of them is replaced by
// the version of it that was published with the release.
module akv-secret-store/local-cluster

go {go}

tool (
{packages}
)

require (
{requirements}
)

replace (
{replacements}
)
"""


def kubernetes_version(text: str, source: str) -> str:
    """Return `1.37.2` for `1.37.2` and `v1.37.2`. Raise `BadInput`, which names `source`, for any other text."""
    match = re.fullmatch(r"v?(1\.\d{1,3}\.\d{1,3})", text.strip())
    if not match:
        raise BadInput(
            f"{source}={text!r} is not a Kubernetes release: write three numbers, such as {DEFAULT_KUBERNETES}"
        )
    return match[1]


def minor_version(version: str) -> int:
    """Return the minor release, such as 37 for `1.37.2`."""
    return int(version.split(".")[1])


def go_version(text: str) -> tuple[int, int, int] | None:
    """Return (1, 26, 8) for `go1.26.8`, which `go env GOVERSION` prints. Return None if the text has no version."""
    match = re.match(r"(?:go)?(\d+)\.(\d+)(?:\.(\d+))?", text.strip())
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def go_mod(version: str, upstream: str, about: str, packages: Collection[str]) -> str:
    """Return a go.mod that builds `packages` of the release `version`, from the release's own go.mod (`upstream`).

    The libraries of a release v1.N.P are published as v0.N.P. The version of etcd's server is that of the etcd client
    that the release uses.
    """
    libraries = re.findall(r"^\s*(?:replace\s+)?(k8s\.io/\S+) => \./staging/", upstream, re.MULTILINE)
    etcd = re.search(r"^\s*go\.etcd\.io/etcd/client/v3 (v\S+)", upstream, re.MULTILINE)
    if not libraries or not etcd:
        raise ClusterError(
            f"the go.mod of Kubernetes {version} does not have the expected form: it replaces no library by"
            " ./staging/…, or does not require go.etcd.io/etcd/client/v3"
        )
    published = "v0." + version.split(".", 1)[1]
    required = {"go.etcd.io/etcd/server/v3": etcd[1]} if any("/etcd/" in package for package in packages) else {}
    required["k8s.io/kubernetes"] = f"v{version}"
    return GO_MOD.format(
        version=version,
        about=about[0].upper() + about[1:],
        go=MINIMUM_GO,
        packages="\n".join(f"\t{package}" for package in packages),
        requirements="\n".join(f"\t{module} {wanted}" for module, wanted in required.items()),
        replacements="\n".join(f"\t{library} => {library} {published}" for library in libraries),
    )


def etcd_of(go_mod: str) -> str:
    """Return the version of etcd's server in a go.mod of this repository, such as 3.7.0."""
    match = re.search(r"^\s*(?:require )?go\.etcd\.io/etcd/server/v3 v(\S+)", go_mod, re.MULTILINE)
    if not match:
        raise ClusterError("the go.mod of the control plane does not require go.etcd.io/etcd/server/v3")
    return match[1]


def kubernetes_link_flags(version: str) -> str:
    """Return the linker's flags that put the version into the programs. Without them it would be `v0.0.0`."""
    numbers = {"gitMajor": "1", "gitMinor": str(minor_version(version))}
    facts = {"gitVersion": f"v{version}", **numbers, "gitCommit": "modules"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    flags = [f"-X {package}.{fact}={value}" for package in packages for fact, value in facts.items()]
    return " ".join(["-s", "-w", *flags])
