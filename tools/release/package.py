"""Write a release folder offline: chart, OCI artifacts, templates for Azure, bills of materials, checksums, notes."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tools.cli.common import changelog, command, helm, project
from tools.codegen import generate
from tools.images import image
from tools.local_cluster import ClusterError
from tools.release import image_contents, layout, oci, sbom, signing
from tools.release.standalone import krew, zipapps

ROOT = Path(__file__).resolve().parents[2]
_REGISTRY = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")


_EXECUTABLE = {tool.name for tool in zipapps.TOOLS}


class PackageError(Exception):
    """The release cannot be made. The message has the cause."""


class UsageError(PackageError):
    """An option cannot be used. The message names it."""


def read_source(
    registry: str,
    archives: Sequence[Path],
    *,
    with_tools: bool = False,
    tag: str = "",
    changed: bool = False,
    signed: bool = False,
) -> layout.ReleaseSource:
    """Read the input of a release.

    `changed` allows a checkout with uncommitted changes. With a `tag`, the version must be that of the tag and must
    have its own section in CHANGELOG.md.
    """
    if not _REGISTRY.fullmatch(registry):
        raise UsageError(f"--registry {registry}: a registry is HOST[:PORT][/PATH] in lower case, without https://")
    revision = image.git_revision()
    if not changed and (revision == "unknown" or revision.endswith("-dirty")):
        raise PackageError(
            f"this checkout has uncommitted changes or is not a git checkout ({revision}), so the release could not be"
            " reproduced: commit the changes, or use --changed"
        )
    if tag and tag != f"v{image.chart_version()}":
        raise UsageError(
            f"--tag {tag}: pyproject.toml has version {image.chart_version()}; the tag must be v{image.chart_version()}"
        )
    changes = changelog.entries((ROOT / "CHANGELOG.md").read_text(), image.chart_version(), released=bool(tag))
    images = _read_images(archives)
    chart = layout.chart_values(registry, images)
    packed = _chart_files(dict(generate.files(chart)))
    pinned = tuple(sbom.parse_requirements((ROOT / "requirements" / "controller.txt").read_text()))
    return layout.ReleaseSource(
        version=image.chart_version(),
        revision=revision,
        chart=packed,
        values=chart,
        pinned=pinned,
        licenses={one.name: _license_of(one.name) for one in pinned},
        changes=changelog.to_markdown(changes),
        images=images,
        artifact_hub=(ROOT / "artifacthub-repo.yml").read_bytes(),
        tools=_tool_files(packed) if with_tools else {},
        signed=signed,
    )


def _read_images(archives: Sequence[Path]) -> tuple[layout.ReleasedImage, ...]:
    """Return the images in these archives, each with all its architectures. The controller's image is the first one."""
    found: dict[str, dict[Path, image_contents.ImageInventory]] = {}
    for path in archives:
        try:
            one = image_contents.read_inventory(path)
        except image_contents.InventoryError as error:
            raise UsageError(f"--image: {error}") from error
        name = layout.TEST_NAME if f"/{layout.TEST_NAME}:" in f"/{one.name}" else layout.NAME
        found.setdefault(name, {})[path] = one
    if found and layout.NAME not in found:
        raise UsageError(f"--image: the image of the controller is missing; only {layout.TEST_NAME} was given")
    made = []
    for name, of_name in sorted(found.items()):
        paths = sorted(of_name, key=lambda path: of_name[path].architecture)
        inventories = tuple(of_name[path] for path in paths)
        if len(paths) == 1:
            made.append(layout.ReleasedImage(name, inventories[0].digest, paths[0].read_bytes(), inventories))
        else:
            archive, digest = oci.combine(paths, f"{name}:{image.chart_version()}")
            made.append(layout.ReleasedImage(name, digest, archive, inventories))
    return tuple(made)


def write_folder(files: oci.Files, folder: Path, key: Path | None) -> None:
    """Write the folder completely or not at all. Sign its checksums if there is a `key`."""
    if folder.exists():
        raise UsageError(f"--output {folder}: the folder already exists; remove it, or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".release-") as scratch:
        fresh = Path(scratch, folder.name)
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if name.endswith(".sh") or name in _EXECUTABLE:
                path.chmod(0o755)
        if key:
            signing.sign(fresh / "SHA256SUMS", key)
        shutil.move(fresh, folder)


def _chart_files(generated: dict[str, str]) -> oci.Files:
    """Return the files of the chart. Files generated with the release's values replace those of the checkout."""
    here = {name: (helm.CHART / name).read_bytes() for name in _run_git("-C", "chart", "ls-files").splitlines()}
    return (
        here
        | {"LICENSE": (ROOT / "LICENSE").read_bytes()}
        | {
            name.removeprefix("chart/"): content.encode()
            for name, content in generated.items()
            if name.startswith("chart/")
        }
    )


def _tool_files(chart: oci.Files) -> oci.Files:
    """Return `render` and `doctor` as one file each, the manifests that `render` writes, and the plugin of kubectl."""
    made = zipapps.build(chart)
    manifests = zipapps.manifests(made["render"], "--no-hooks", "--create-namespace")
    plugin = krew.files(project.read(), made["doctor"], (ROOT / "LICENSE").read_bytes())
    return {**made, **{f"manifests/{name}": content for name, content in manifests.items()}, **plugin}


def _license_of(name: str) -> str:
    """Return the license of a package from this environment, which has the same packages as the image."""
    return image_contents.python_package(metadata.distribution(name).read_text("METADATA") or "").license


def _run_git(*args: str) -> str:
    """Return the output of git, or "" if git fails."""
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False).stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. `--help` describes it."""
    parser = command.ToolParser(
        prog="tools/package",
        description="Write a release folder, offline: the chart as archive and as OCI artifact, ARM templates and"
        " command lines for Azure, bills of materials, checksums and notes. The same commit results in the same bytes.",
        epilog="Exit codes: 0 written; 1 failed, and nothing was written; 2 wrong usage.",
    )
    parser.add_argument(
        "--output",
        type=command.parse_path,
        metavar="DIR",
        help="the folder, which must not exist (default: build/release-VERSION)",
    )
    parser.add_argument(
        "--image",
        type=command.parse_path,
        metavar="FILE",
        action="append",
        default=[],
        help="the OCI archive of an image (`make image`): the chart then has its digest. Repeat the option for the"
        " images of the controller and of helm test, and for each architecture",
    )
    parser.add_argument(
        "--registry",
        default=project.read().registry,
        metavar="HOST[/PATH]",
        help="the registry for images, chart and manifests, such as that of an air-gapped site (default: %(default)s)",
    )
    parser.add_argument(
        "--tag",
        default="",
        metavar="vVERSION",
        help="the git tag of the release: it must match the version, and CHANGELOG.md needs a section for the version",
    )
    parser.add_argument(
        "--with-tools",
        action="store_true",
        help="add render and doctor, each as one file that needs only Python, the rendered manifests and a plugin for"
        " kubectl; pip downloads their wheels on first use",
    )
    parser.add_argument("--changed", action="store_true", help="allow a checkout with uncommitted changes")
    parser.add_argument(
        "--sign",
        type=command.parse_path,
        metavar="KEY",
        help="sign SHA256SUMS with this key of cosign (`cosign generate-key-pair`); the password is in"
        " COSIGN_PASSWORD; the first use builds cosign, which takes minutes",
    )
    options = parser.parse_args(argv)
    if options.sign and not options.sign.is_file():  # before cosign is built, which takes minutes
        parser.error(f"--sign {options.sign}: there is no such file; create a key with `cosign generate-key-pair`")
    folder = (options.output or ROOT / "build" / f"release-{image.chart_version()}").absolute()
    try:
        signed = options.sign is not None
        made = read_source(
            options.registry,
            options.image,
            with_tools=options.with_tools,
            tag=options.tag,
            changed=options.changed,
            signed=signed,
        )
        write_folder(layout.build_files(made), folder, options.sign)
    except (
        PackageError,
        changelog.ChangelogError,
        oci.ArchiveError,
        zipapps.ZipappError,
        sbom.DisagreeError,
        signing.SigningError,
        ClusterError,
    ) as error:
        command.print_problem("tools/package", error)
        return 2 if isinstance(error, UsageError) else 1
    print(folder)
    return 0


if __name__ == "__main__":
    command.run_and_exit("tools/package", main)
