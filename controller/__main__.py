"""The program in the image: `python -P -m controller`.

Settings are environment variables or arguments; `--help` lists them.
"""

import argparse
import asyncio
import gc
import os
import sys
from asyncio import sslproto
from pathlib import Path

import msgspec

from controller import errors
from controller.config.settings import Settings, SettingsError
from controller.kube import config
from controller.observability.telemetry import start_logging

# Bytes that asyncio allocates for each TLS connection and for each read. A TLS record is not larger. With 60 active
# connections, this saves 14 MiB compared with the default of 256 KiB.
TLS_BUFFER = 2**14
# Python's garbage collector runs after this many new objects. Its default is 700, or 2,000 since Python 3.13. It finds
# almost nothing in a first sync, and took a twentieth of its CPU.
GC_THRESHOLD = 5000


def _add_help() -> str:
    lines = ["settings (environment variables or arguments: --log-level debug is LOG_LEVEL=debug; times in seconds):"]
    for field in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        described = getattr(field.type, "extra_json_schema", None) or {}
        lines.append(f"  {field.name.upper():28} {described.get('description', '')} (default: {field.default!r})")
    lines.append("  KUBECONFIG                   a kubeconfig file, outside a pod; the image cannot read one")
    lines.append(f"  SERVICE_ACCOUNT_FOLDER       folder of token and ca.crt (default: '{config.FOLDER}')")
    return "\n".join(lines)


def _run_controller(arguments: argparse.Namespace) -> int:
    gc.set_threshold(GC_THRESHOLD)
    given = {name: text for name, text in vars(arguments).items() if name.isupper() and text is not None}
    try:
        settings = Settings.from_environment(os.environ | given)
        settings.clouds()
        from controller import app  # neither an invalid setting nor the upgrade Job needs these modules

        start_logging(settings.log_level)
        sslproto.SSLProtocol.max_size = TLS_BUFFER
        gc.freeze()  # what is imported is never garbage
        asyncio.run(app.run(settings))
    except (SettingsError, errors.Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _upgrade_crds(arguments: argparse.Namespace) -> int:
    from controller.crd_upgrade import job  # the controller does not need this module

    return job.run(arguments.folder)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m controller",
        description="Copy secrets from Azure Key Vault into Kubernetes Secrets. Without a subcommand: run.",
        epilog="`run --help` lists the settings.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="{run,upgrade-crds}")
    run = commands.add_parser(
        "run",
        help="run the controller until SIGTERM (the default)",
        description="Run the controller until SIGTERM. Exit codes: 0 after SIGTERM, 2 for invalid settings.",
        epilog=_add_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--SETTING VALUE ...]",
        allow_abbrev=False,
    )
    for field in Settings.__struct_fields__:
        run.add_argument(f"--{field.replace('_', '-')}", dest=field.upper(), help=argparse.SUPPRESS)
    run.set_defaults(call=_run_controller)
    upgrade = commands.add_parser(
        "upgrade-crds",
        help="update the CRDs of a cluster, as the chart's Job does",
        description="Update the CRDs of a cluster to a superset of the served ones and those in a folder.",
        epilog="In a Pod it uses the ServiceAccount, elsewhere the file that KUBECONFIG names. Exit codes: 0 if the"
        " CRDs are up to date, 1 if the API server fails or a CRD cannot be merged, 2 if the folder is invalid.",
    )
    upgrade.add_argument("folder", type=Path, help="the folder with one CustomResourceDefinition in each *.yaml")
    upgrade.set_defaults(call=_upgrade_crds)
    return parser


def main() -> int:
    """Run the subcommand. Without one, run `run`, so that the image takes settings as its arguments."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    parsed = _build_parser().parse_args(arguments)
    return int(parsed.call(parsed))


if __name__ == "__main__":
    sys.exit(main())
