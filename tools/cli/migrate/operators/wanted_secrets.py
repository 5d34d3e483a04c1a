"""Define the Secret that a conversion wants, with the keys that carry over and those that are lost. Pure."""

import builtins
import re
from collections.abc import Mapping, Sequence

import msgspec

from controller.keyvault.credentials import Identity
from tools.cli.migrate.objects import Manifest

# Documentation of Key Vault, "Vault-name and Object-name" and "Object identifiers".
OBJECT_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,126}")
VERSION_ID = re.compile(r"[0-9A-Fa-f]{32}")
SECRETS_USER = "Key Vault Secrets User"
PEM_PARTS = ("tls.crt", "tls.key")
# Maximum number of problems of one object in a note.
_MAX_PROBLEMS = 5


class InexpressibleSecret(Exception):  # noqa: N818 -- an answer, not an error
    """A Secret cannot be converted. The message has the reason and the best alternative."""


class VaultIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """A vault and the identity that reads it. `cloud` is empty for the public cloud."""

    vault: str
    client_id: str
    tenant_id: str
    service_account: str
    cloud: str = ""

    def identity(self, namespace: str) -> Identity:
        """Return the identity that reads the vault for that namespace."""
        return Identity(namespace, self.service_account, self.client_id, self.tenant_id)


class SecretEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a Secret. `part` is one of `PEM_PARTS`, `version` an id, `type` secret or cert (without its key).

    `property` is a path into a JSON or YAML value.
    """

    key: str
    object: str
    type: str = "secret"
    part: str = ""
    version: str = ""
    property: str = ""
    encoding: str = ""

    @builtins.property
    def role(self) -> str:
        """The role on the vault that is necessary to read the object."""
        return "Key Vault Reader" if self.type == "cert" else SECRETS_USER


class WantedSecret(msgspec.Struct, frozen=True, kw_only=True):
    """One Secret with all its keys.

    `whole` has the fields of an AKVSync's object that generates several keys. Then there are no entries. `lost` has the
    reason for each key of the other project's Secret that this one lacks.
    """

    namespace: str
    name: str
    type: str
    labels: dict[str, str]
    annotations: dict[str, str]
    entries: Sequence[SecretEntry] = ()
    whole: Manifest | None = None
    reader: VaultIdentity
    lost: Mapping[str, str] = {}


def join_problems(problems: Mapping[str, str]) -> str:
    """Return the first of the problems, each with its key or entry, for a note."""
    more = f"; and {len(problems) - _MAX_PROBLEMS} more keys" if len(problems) > _MAX_PROBLEMS else ""
    return "; ".join(f"{where}: {problem}" for where, problem in list(problems.items())[:_MAX_PROBLEMS]) + more
