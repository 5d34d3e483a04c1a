"""Share the command line and cosign between the programs that publish a release and verify it."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.cli.common import command
from tools.local_cluster import ClusterError
from tools.release import signing
from tools.release.manifest import ManifestError, ReleaseManifest


class RegistryError(Exception):
    """The release is not published, or differs from its folder. The message names the artifact or program."""


class RegistryCommand(NamedTuple):
    """A program: its texts, and the function that handles a release folder.

    `handle` gets the folder, the key and whether the registry has no TLS. `printed` precedes each artifact's reference.
    """

    name: str
    description: str
    exit_codes: str
    key_help: str
    handle: Callable[[Path, Path | None, bool], ReleaseManifest]
    printed: str = ""

    def run(self, argv: Sequence[str] | None = None) -> int:
        """Run the command line; see `--help`."""
        parser = command.ToolParser(prog=self.name, description=self.description, epilog=self.exit_codes)
        parser.add_argument("folder", type=command.parse_path, metavar="DIR", help="the release folder")
        parser.add_argument("--key", type=command.parse_path, metavar="KEY", help=self.key_help)
        parser.add_argument(
            "--plain-http", action="store_true", help="for a registry without TLS, such as one on loopback"
        )
        options = parser.parse_args(argv)
        try:
            manifest = self.handle(options.folder, options.key, options.plain_http)
        except (RegistryError, ManifestError, ClusterError) as error:
            command.print_problem(self.name, error)
            return 1
        for artifact in manifest.artifacts:
            print(f"{self.printed}{manifest.reference(artifact)}")
        return 0


def run_program(about: str, argv: Sequence[str | Path], environment: Mapping[str, str]) -> str:
    """Run a program without input. Return its output, or raise `RegistryError` with `about`."""
    done = subprocess.run(
        argv, env=os.environ | dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RegistryError(f"{about}: {signing.find_reason(done.stderr)}")
    return done.stdout
