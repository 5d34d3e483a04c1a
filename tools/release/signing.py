"""Sign with cosign: with a key and without a network, or with the identity of the workflow that signs.

With a key, cosign uses no certificate authority, no public log and no network. Without a key, cosign asks Sigstore's
public services to certify the workflow's identity.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.local_cluster.programs import assets

SUFFIX = ".sigstore.json"
# Without these two files cosign requests the list of services from sigstore.dev. These files list no services.
_NO_SERVICES = '{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}'
_NO_AUTHORITIES = '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'


class SigningError(Exception):
    """cosign signed nothing. The message is cosign's."""


def key_flags(key: Path | None, scratch: Path) -> list[str]:
    """Return cosign's flags for signing with a key and without a network. Without a key, return no flags."""
    if key is None:
        return []
    services, authorities = scratch / "services.json", scratch / "authorities.json"
    services.write_text(_NO_SERVICES)
    authorities.write_text(_NO_AUTHORITIES)
    return [f"--key={key}", f"--signing-config={services}", f"--trusted-root={authorities}"]


def signing_environment(key: Path | None, scratch: Path) -> Mapping[str, str]:
    """Return the environment variables that cosign needs in addition to the caller's."""
    return {"TUF_ROOT": str(scratch)} if key else {}


def find_reason(stderr: str) -> str:
    """Return the cause of a program's failure from its stderr."""
    errors = [line.removeprefix("Error: ") for line in stderr.splitlines() if line.startswith("Error: ")]
    return errors[0] if errors else stderr.strip()


def sign(file: Path, key: Path) -> Path:
    """Write the signature beside the file. cosign reads the key's password from COSIGN_PASSWORD, or asks for it."""
    signature = file.with_name(file.name + SUFFIX)
    with tempfile.TemporaryDirectory(prefix="akv-signing-") as folder:
        scratch = Path(folder)
        done = subprocess.run(
            [assets.tool("cosign"), "sign-blob", "--yes", f"--bundle={signature}", *key_flags(key, scratch), file],
            env=os.environ | dict(signing_environment(key, scratch)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SigningError(f"cosign cannot sign with {key}: {find_reason(done.stderr)}")
    return signature


def verification_command(file: str) -> str:
    """Return the command that verifies the signature with the public key."""
    return f"cosign verify-blob --key cosign.pub --bundle {file}{SUFFIX} --insecure-ignore-tlog {file}"
