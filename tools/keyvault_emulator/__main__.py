"""`tools/keyvault-emulator`: emulate Azure Key Vault and Entra over HTTPS on this machine."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import selectors
import signal
import socket
import sys
import tempfile
from pathlib import Path

from tools.keyvault_emulator.azure.state import EmulatorState, load
from tools.keyvault_emulator.errors import EmulatorError
from tools.keyvault_emulator.listener import url_of
from tools.keyvault_emulator.server import EmulatorServer
from tools.pki import write_private

DESCRIPTION = """\
Emulate Azure Key Vault and Entra over HTTPS on this machine: the objects that the official clients read (secrets,
certificates, keys and their versions, with paging, role assignments and real errors), and token exchange with real
verification of the assertion. The state is in memory. The emulator sends no data to other machines.
"""

EPILOG = """\
addresses (the first line on stdout is JSON with them):
  a vault       https://127.0.0.1:PORT/<vault>     (or the Host header <vault>.vault.azure.net)
  an authority  https://127.0.0.1:PORT             (its path is the tenant)
  the CA        DIRECTORY/ca.pem

a state file (YAML or JSON):
  issuers:
    https://127.0.0.1:6443: {caFile: cluster-ca.pem}
  identities:
    00000000-0000-0000-0000-000000000001:
      tenant: 00000000-0000-0000-0000-00000000000a
      federated: [{issuer: "https://127.0.0.1:6443", subject: "system:serviceaccount:shop:shop"}]
      roles: {my-vault: [Key Vault Secrets User]}
  vaults:
    my-vault:
      tenant: 00000000-0000-0000-0000-00000000000a
      secrets: {db-password: {versions: [{value: old}, {value: new}]}}
      certificates: {web: {versions: [{file: web.pem}]}}

control API (each verb, with its arguments, is a method of tools/keyvault_emulator/control.py):
  key=$(python3 -c 'import json; print(json.load(open("DIRECTORY/connection.json"))["key"])')
  curl --cacert DIRECTORY/ca.pem -H "Authorization: Bearer $key" https://127.0.0.1:CONTROL_PORT/control/set_secret \\
       -d '{"vault": "my-vault", "name": "db-password", "value": "newer"}'
  ... /control/cut_off, restore, delay, throttle, fail, clear_faults, firewall, delete, recover, counters

exit codes: 0 stopped, 1 failed, 2 bad argument or state file
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the emulator until a signal stops it, and return the exit code; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="keyvault-emulator",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--directory",
        type=_parse_path,
        help="the folder for the CA and Entra's signing key, which later starts reuse, and for connection.json with "
        "the addresses and the control key (default: a temporary folder, which is removed at the end)",
    )
    parser.add_argument(
        "--state", type=_parse_path, help="a YAML or JSON file with the state at the start (default: empty)"
    )
    parser.add_argument(
        "--address", type=_parse_address, default="127.0.0.1", help="the address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=_parse_port, default=0, help="the port of vaults and Entra (default: a free one)"
    )
    parser.add_argument(
        "--control-port", type=_parse_port, default=0, help="the port of the control API (default: a free one)"
    )
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="stop at the end of the standard input, so that the emulator never outlives its parent process",
    )
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning"],
        default="info",
        help="minimum level of messages on stderr; info has refusals and control calls (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        world = _load_world(options.state)
        if options.until_stdin_closes:
            _check_stdin()
        for port in filter(None, (options.port, options.control_port)):
            _refuse_taken(options.address, port)
    except EmulatorError as problem:
        print(f"keyvault-emulator: {problem}", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        directory: Path = options.directory or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="keyvault-emulator-"))
        )
        return _run_emulator(world, directory, options)


def _run_emulator(world: EmulatorState, directory: Path, options: argparse.Namespace) -> int:
    """Run the emulator with its keys in that folder, and return the exit code."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        server = EmulatorServer(world, directory, options.address, options.port, options.control_port)
        asyncio.run(_serve_emulator(server, directory, options.address, options.until_stdin_closes))
    except EmulatorError as problem:
        print(f"keyvault-emulator: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"keyvault-emulator: {problem.filename or directory}: {problem.strerror}", file=sys.stderr)
        return 1
    return 0


async def _serve_emulator(server: EmulatorServer, directory: Path, address: str, until_stdin_closes: bool) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if until_stdin_closes:
        loop.add_reader(sys.stdin, lambda: None if os.read(0, 1024) else stopped.set())
    await server.control.open()
    await server.data.open()
    connection = {
        "url": url_of(address, server.data.port),
        "control": url_of(address, server.control.port),
        "ca": str(server.authority.file),
        "directory": str(directory),
    }
    write_private(directory / "connection.json", json.dumps({**connection, "key": server.key}).encode())
    print(json.dumps(connection), flush=True)
    await stopped.wait()
    await server.data.stop()
    await server.control.stop()


def _load_world(state: Path | None) -> EmulatorState:
    if state is None:
        return EmulatorState()
    try:
        text = state.read_text()
    except OSError as problem:
        raise EmulatorError(f"--state {state}: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise EmulatorError(f"--state {state}: it is not text") from problem
    return load(text, state.resolve().parent)


def _check_stdin() -> None:
    """Raise `EmulatorError` if the end of the standard input cannot be awaited: a file, /dev/null, or none at all."""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin, selectors.EVENT_READ)
    except (ValueError, PermissionError) as problem:
        raise EmulatorError("--until-stdin-closes: the standard input must be a pipe or a terminal") from problem


def _refuse_taken(address: str, port: int) -> None:
    """Raise `EmulatorError` if the port is in use: two emulators of one user could share it, and split the calls."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        raise EmulatorError(f"port {port} is in use; choose another one, or 0 for a free one")


def _parse_path(text: str) -> Path:
    """Return the path of an option. Refuse an empty one, which `pathlib` would read as the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, and it is empty")
    return Path(text)


def _parse_address(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z.:-]+", text):
        raise argparse.ArgumentTypeError("expected an IP address of this machine, or a name for one")
    return text


def _parse_port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("expected a port number from 0 to 65535")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
