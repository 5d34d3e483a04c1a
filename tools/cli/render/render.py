"""Render the chart's manifests offline: no cluster, no helm on the PATH, no network.

They are the objects that `helm template --skip-tests` prints, in an order in which they can be applied: the policies
come before the Deployment, which they restrict.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controller.runtime import bounded_yaml
from tools.cli.common import command, helm, kube_names, output_files, printable
from tools.cli.render import values_file
from tools.local_cluster.programs.versions import DEFAULT_KUBERNETES

APPLY_ORDER = (
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Lease",
    "Service",
    "Deployment",
    "Job",
)
"""Kinds in the order of application. Other kinds follow in alphabetical order."""

_MARK = "# Written by tools/render; a later `tools/render --output DIR --force` replaces or removes this file."
_MAX_RELEASE = 53
_NAMESPACE = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


@dataclass(frozen=True)
class RenderedObject:
    """One object: helm's text, and the parsed contents."""

    text: str
    object: dict[str, Any]

    @property
    def kind(self) -> str:
        """Return the kind, such as `Deployment`."""
        return str(self.object["kind"])

    @property
    def name(self) -> str:
        """Return `metadata.name`."""
        return str(self.object["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Return `metadata.namespace`, or an empty text if the object belongs to the whole cluster."""
        return str(self.object["metadata"].get("namespace", ""))

    @property
    def file(self) -> str:
        """Return `16-deployment-NAME.yaml`. The number depends on the kind, so that a file keeps its name."""
        known = self.kind in APPLY_ORDER
        number = APPLY_ORDER.index(self.kind) + 1 if known else len(APPLY_ORDER) + 1
        parts = [f"{number:02}", self.kind.lower(), *([self.namespace] if self.namespace else []), self.name]
        return re.sub(r"[^a-z0-9.-]", "-", "-".join(parts).lower()) + ".yaml"


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """The options, named like helm's flags. `values` are pairs of such a flag and its argument."""

    values: tuple[tuple[str, str], ...] = ()
    kube_version: str = DEFAULT_KUBERNETES
    api_versions: tuple[str, ...] = ()
    namespace: str = helm.RELEASE
    release: str = helm.RELEASE
    include_crds: bool = True
    hooks: bool = True
    tests: bool = False
    create_namespace: bool = False

    def check(self, stdin: str | None = None) -> None:
        """Raise `helm.BadValues` for options that helm would accept, or would report less clearly."""
        if not re.fullmatch(_NAMESPACE, self.namespace):
            raise helm.BadValues(
                [f"--namespace {self.namespace}: a namespace has at most 63 characters of a-z, 0-9 and -"]
            )
        if not (kube_names.is_name(self.release) and len(self.release) <= _MAX_RELEASE):
            raise helm.BadValues(
                [f"--release {self.release}: a release has at most {_MAX_RELEASE} characters of a-z, 0-9, - and ."]
            )
        for flag, argument in self.values:
            if flag == "--values":
                values_file.check(argument, stdin if argument == "-" else None)
            if flag == "--set-file":
                for pair in re.split(r"(?<!\\),", argument):
                    _check_set_file(pair)

    def arguments(self) -> list[str]:
        """Return the command line of `helm template`."""
        switches = [
            *(["--include-crds"] * self.include_crds),
            *(["--no-hooks"] * (not self.hooks)),
            *(["--skip-tests"] * (not self.tests)),
        ]
        served = [word for kind in self.api_versions for word in ("--api-versions", kind)]
        versions = ["--kube-version", self.kube_version, *served, "--namespace", self.namespace]
        values = [word for pair in self.values for word in pair]
        return ["template", self.release, str(helm.CHART), *versions, *switches, *values]


def _check_set_file(pair: str) -> None:
    """Raise `helm.BadValues` if the file of `PATH=FILE` cannot be read."""
    path = pair.partition("=")[2]
    if path in ("", "-"):
        raise helm.BadValues([f"--set-file {pair}: expected PATH=FILE, such as clouds.mine.ca=ca.pem"])
    values_file.read_twice(path)


def render(chosen: RenderOptions, stdin: str | None = None) -> list[RenderedObject]:
    """Return the manifests in the order of application. Raise `helm.BadValues` or `helm.HelmError`."""
    chosen.check(stdin)
    manifests = list(split(helm.run(chosen.arguments(), stdin=stdin)))
    if chosen.create_namespace:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": chosen.namespace}}
        manifests.append(RenderedObject(yaml.safe_dump(namespace, sort_keys=False), namespace))
    return sorted(manifests, key=lambda manifest: manifest.file)


def split(stream: str) -> Iterator[RenderedObject]:
    """Yield the objects of a YAML stream, each with its own text. Raise `helm.HelmError` for another document."""
    for text in re.split(r"^---\s*$", stream, flags=re.MULTILINE):
        parsed = yaml.load(text, Loader=bounded_yaml.LOADER)  # noqa: S506 - a safe loader
        if parsed is None:
            continue
        if not (isinstance(parsed, dict) and "kind" in parsed and "name" in parsed.get("metadata", {})):
            raise helm.HelmError(f"the chart is broken, please report it: this is not an object:\n{text.strip()[:500]}")
        yield RenderedObject(text.strip("\n") + "\n", parsed)


def images(manifests: Sequence[RenderedObject]) -> list[str]:
    """Return every container image of the manifests once."""
    return sorted({image for manifest in manifests for image in _find_images(manifest.object)})


def _find_images(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers") and isinstance(value, list):
                yield from (str(container["image"]) for container in value)
            else:
                yield from _find_images(value)
    elif isinstance(node, list):
        for item in node:
            yield from _find_images(item)


def write(manifests: Sequence[RenderedObject], folder: Path, *, force: bool) -> None:
    """Write one file for each manifest. Raise `helm.BadValues` if the folder is not empty, unless `force` is set.

    With `force`, files of an earlier call are replaced, or removed if they are not needed. Other files remain; one with
    the name of a manifest is an error.
    """
    if folder.exists() and not folder.is_dir():
        raise helm.BadValues([f"--output {folder}: is not a folder"])
    present = list(folder.iterdir()) if folder.exists() else []
    if present and not force:
        raise helm.BadValues([f"--output {folder}: is not empty; name another folder, or add --force"])
    ours = {path.name for path in present if _is_ours(path)}
    wanted = {manifest.file: f"{_MARK}\n{manifest.text}" for manifest in manifests}
    if len(wanted) < len(manifests):
        raise helm.HelmError("the chart is broken, please report it: two of its objects have one name")
    for path in present:
        if path.name in wanted.keys() - ours:
            raise helm.BadValues([f"--output {folder}: {path.name} is in the way; tools/render did not write it"])
    output_files.write(folder, wanted)
    for name in ours - wanted.keys():
        (folder / name).unlink()


def _is_ours(path: Path) -> bool:
    if not path.is_file() or path.suffix != ".yaml":
        return False
    with path.open(errors="replace") as file:
        return file.readline().rstrip("\n") == _MARK


class _ValuesFlag(argparse.Action):
    """Keep the order of the values, because it decides between two that name the same one."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        namespace.given = [*namespace.given, (self.option_strings[-1], values)]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    flags = command.ToolParser(
        prog="tools/render",
        description="Print the chart's manifests without a cluster: those of `helm template --skip-tests`, in the order"
        " of application.",
        epilog="To apply them: tools/render --create-namespace --output DIR && kubectl apply -f DIR. Exit codes:"
        " 0 done; 1 the chart or this machine failed; 2 a value or an option is invalid, and nothing was written.",
    )
    flags.set_defaults(given=[])
    for names, metavar, text in (
        (
            ("-f", "--values"),
            "FILE",
            "a file of values, - for standard input; may be repeated, the last one wins",
        ),
        (("--set",), "PATH=VALUE", "one value, over those of files; several with commas between"),
        (("--set-string",), "PATH=VALUE", "the same, and the value is text even if it looks like a number"),
        (
            ("--set-file",),
            "PATH=FILE",
            "the same, and the value is the contents of the file, such as clouds.mine.ca=ca.pem",
        ),
        (("--set-json",), "PATH=JSON", "the same, and the value is JSON"),
    ):
        flags.add_argument(*names, metavar=metavar, help=text, action=_ValuesFlag)
    flags.add_argument(
        "--kube-version",
        default=DEFAULT_KUBERNETES,
        metavar="1.N.P",
        help="the cluster's version; it decides which objects are rendered (default: %(default)s)",
    )
    flags.add_argument(
        "--api-versions",
        default=[],
        action="append",
        metavar="GROUP/VERSION[/KIND]",
        help="an additional API of the cluster, such as security.openshift.io/v1; may be repeated",
    )
    flags.add_argument(
        "-n", "--namespace", default=helm.RELEASE, help="the namespace of the release (default: %(default)s)"
    )
    flags.add_argument("--release", default=helm.RELEASE, metavar="NAME", help="(default: %(default)s)")
    flags.add_argument(
        "--include-crds",
        default=True,
        action=argparse.BooleanOptionalAction,
        help="include the CRDs (default: yes)",
    )
    flags.add_argument(
        "--hooks",
        default=True,
        action=argparse.BooleanOptionalAction,
        help="include the Job that updates CRDs, which helm runs before an upgrade (default: yes)",
    )
    flags.add_argument(
        "--create-namespace",
        action="store_true",
        help="include the Namespace, which is not part of the chart",
    )
    output = flags.add_mutually_exclusive_group()
    output.add_argument(
        "-o",
        "--output",
        type=command.parse_path,
        metavar="DIR",
        help="write one file for each object, instead of stdout",
    )
    output.add_argument(
        "--images", action="store_true", help="only list the container images for mirroring, with that of helm test"
    )
    flags.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    return flags


def options(args: argparse.Namespace) -> RenderOptions:
    """Return the options of the command line."""
    return RenderOptions(
        values=tuple(args.given),
        kube_version=args.kube_version,
        api_versions=tuple(args.api_versions),
        namespace=args.namespace,
        release=args.release,
        include_crds=args.include_crds,
        hooks=args.hooks,
        tests=args.images and args.hooks,
        create_namespace=args.create_namespace,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    flags = parser()
    args = flags.parse_args(argv)
    if args.force and not args.output:
        flags.error("--force needs --output")
    chosen = options(args)
    try:
        stdin = values_file.read("-") if ("--values", "-") in chosen.values else None
        manifests = render(chosen, stdin)
        if args.images:
            print(*images(manifests), sep="\n")
        elif args.output:
            write(manifests, args.output, force=args.force)
            print(f"{len(manifests)} files in {args.output}", file=sys.stderr)
        else:
            for manifest in manifests:
                print("---", manifest.text, sep="\n", end="")
    except helm.BadValues as error:
        for problem in error.problems:
            command.print_problem("tools/render", problem)
        return 2
    except helm.HelmError as error:
        print(printable.block(f"tools/render: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    command.run_and_exit("tools/render", main)
