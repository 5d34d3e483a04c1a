"""The result of a migration from another operator: manifests, Secrets to take over, and notes. Pure."""

import msgspec

from controller.keyvault.credentials import Identity
from tools.cli.migrate.objects import Manifest, MigrationNote
from tools.cli.migrate.operators import wanted_secrets
from tools.cli.migrate.operators.wanted_secrets import SECRETS_USER, WantedSecret


class ConversionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that replace those of the manifests; an empty field means that the manifests decide."""

    vault: str = ""
    client_id: str = ""
    tenant_id: str = ""
    service_account: str = ""
    classes: bool = False
    beside: bool = False


class SourceObject(msgspec.Struct, frozen=True, order=True):
    """An object of the other operator. `kind` is its name for kubectl."""

    kind: str
    namespace: str
    name: str


class SecretTakeover(msgspec.Struct, frozen=True, order=True):
    """A Secret that gets another controller, and the objects of the other operator that generate it today.

    `new_name` is the name of this controller's Secret. It is the same name if the Secret is taken over in place.
    `parent` is an object that would create the sources again, and is deleted first. `prepare` is a merge patch for the
    parent, or else for the sources, to apply before the deletion.
    """

    namespace: str
    name: str
    new_name: str
    sources: tuple[SourceObject, ...]
    parent: SourceObject | None = None
    prepare: str = ""


class ConversionResult(msgspec.Struct, frozen=True):
    """Manifests, patches, takeovers and notes."""

    manifests: list[Manifest] = msgspec.field(default_factory=list)
    patches: list[Manifest] = msgspec.field(default_factory=list)
    roles: dict[tuple[Identity, str], set[str]] = msgspec.field(default_factory=dict)
    """The roles that each identity needs on each vault."""
    notes: list[MigrationNote] = msgspec.field(default_factory=list)
    takeovers: list[SecretTakeover] = msgspec.field(default_factory=list)
    untouched: list[str] = msgspec.field(default_factory=list)
    """Manifests that were read and that this migration does not concern."""
    partial: list[SecretTakeover] = msgspec.field(default_factory=list)
    """Secrets of which some keys are in a Secret beside it. The other operator continues to write them."""
    remaining: list[SourceObject] = msgspec.field(default_factory=list)
    """Objects that the other operator still serves after the migration."""

    def add_roles(self, secret: WantedSecret) -> None:
        """Add the roles that the reader of a Secret needs."""
        who = (secret.reader.identity(secret.namespace), secret.reader.vault)
        roles = {entry.role for entry in secret.entries} or {SECRETS_USER}
        self.roles.setdefault(who, set()).update(roles)

    def note_lost(self, about: str, name: str, secret: WantedSecret) -> None:
        """Add a note about keys of a Secret without a counterpart. `name` is the new Secret with the other keys."""
        self.note(
            about,
            f"is carried over in part: {name} beside the Secret {secret.name} has the other keys, and {secret.name} is"
            f" not taken over, because it would lose keys. {wanted_secrets.join_problems(secret.lost)}",
        )

    def note(self, about: str, text: str) -> None:
        """Add a note, unless the same note exists."""
        if (note := MigrationNote(about, text)) not in self.notes:
            self.notes.append(note)
