"""Signatures by cosign: with a key and without any network, or with the identity of the workflow that signs.

With a key there is no certificate authority, no public log and no network. Without a key cosign asks Sigstore's public
services to certify the workflow's identity.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.local_cluster.programs import assets

SUFFIX = ".sigstore.json"
# Without these two files cosign asks sigstore.dev which services there are; the empty ones say that there are none.
_NO_SERVICES = '{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}'
_NO_AUTHORITIES = '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'


class SigningError(Exception):
    """Nothing was signed; the message is cosign's."""


def key_flags(key: Path | None, scratch: Path) -> list[str]:
    """Return cosign's flags for signing with a key and no network; without a key there are none."""
    if key is None:
        return []
    services, authorities = scratch / "services.json", scratch / "authorities.json"
    services.write_text(_NO_SERVICES)
    authorities.write_text(_NO_AUTHORITIES)
    return [f"--key={key}", f"--signing-config={services}", f"--trusted-root={authorities}"]


def environment(key: Path | None, scratch: Path) -> Mapping[str, str]:
    """Return what cosign needs in its environment beside the caller's."""
    return {"TUF_ROOT": str(scratch)} if key else {}


def reason(stderr: str) -> str:
    """Return why a program failed, from what it wrote to stderr."""
    errors = [line.removeprefix("Error: ") for line in stderr.splitlines() if line.startswith("Error: ")]
    return errors[0] if errors else stderr.strip()


def sign(file: Path, key: Path) -> Path:
    """Writes the signature beside the file. The key's password is in COSIGN_PASSWORD, or cosign asks for it."""
    signature = file.with_name(file.name + SUFFIX)
    with tempfile.TemporaryDirectory(prefix="akv-signing-") as folder:
        scratch = Path(folder)
        done = subprocess.run(
            [assets.tool("cosign"), "sign-blob", "--yes", f"--bundle={signature}", *key_flags(key, scratch), file],
            env=os.environ | dict(environment(key, scratch)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SigningError(f"cosign signs nothing with {key}: {reason(done.stderr)}")
    return signature


def verification(file: str) -> str:
    """The command by which anybody checks it, who has the public key."""
    return f"cosign verify-blob --key cosign.pub --bundle {file}{SUFFIX} --insecure-ignore-tlog {file}"
