"""Signatures by cosign with a key of one's own: no certificate authority, no public log, no network."""

import os
import subprocess
import tempfile
from pathlib import Path

from tools.local_cluster import assets

SUFFIX = ".sigstore.json"
# Without these two files cosign asks sigstore.dev which services there are; the empty ones say that there are none.
_NO_SERVICES = '{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}'
_NO_AUTHORITIES = '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'


class SigningError(Exception):
    """Nothing was signed; the message is cosign's."""


def sign(file: Path, key: Path) -> Path:
    """Writes the signature beside the file. The key's password is in COSIGN_PASSWORD, or cosign asks for it."""
    signature = file.with_name(file.name + SUFFIX)
    with tempfile.TemporaryDirectory(prefix="akv-signing-") as scratch:
        services, authorities = Path(scratch, "services.json"), Path(scratch, "authorities.json")
        services.write_text(_NO_SERVICES)
        authorities.write_text(_NO_AUTHORITIES)
        offline = [f"--signing-config={services}", f"--trusted-root={authorities}"]
        done = subprocess.run(
            [assets.tool("cosign"), "sign-blob", "--yes", f"--key={key}", f"--bundle={signature}", *offline, file],
            env=os.environ | {"TUF_ROOT": scratch},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        raise SigningError(f"cosign signs nothing with {key}: {said[0][7:] if said else done.stderr.strip()}")
    return signature


def verification(file: str) -> str:
    """The command by which anybody checks it, who has the public key."""
    return f"cosign verify-blob --key cosign.pub --bundle {file}{SUFFIX} --insecure-ignore-tlog {file}"
