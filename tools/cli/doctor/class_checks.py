"""Check whether a SecretProviderClass and a SecretSync fit together, without calling any vault. Pure.

`tools/doctor` and `tools/migrate from-sse` share these checks.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.config.clouds import find_cloud
from controller.domain.decision import find_spec_mistake
from controller.domain.provider_class import ObjectVersionRef, ProviderConfig, read_class
from controller.errors import ClassError, ControllerError
from controller.keyvault.credentials import Identity
from controller.keyvault.objects import SOURCES
from tools.cli.doctor.checks import CheckResult, failed, ok, warn

ROLES: Mapping[str, str] = {kind: source.role for kind, source in SOURCES.items()}
"""The Azure role that reads objects of each objectType."""


class UnknownCloudError(ClassError):
    """The class names a cloud that the administrator has not configured."""

    def __init__(self, cloud: str, known: Collection[str]) -> None:
        names = ", ".join(sorted(known))
        super().__init__(f"cloudName {cloud[:60]!r} is not one of the administrator's; the known clouds are {names}")
        self.cloud = cloud


class ParsedSync(msgspec.Struct, frozen=True):
    """A SecretSync with its class. `source.cloud` is one of the known clouds; `wanted` is by targetKey."""

    source: ProviderConfig
    wanted: Mapping[str, ObjectVersionRef]


def understand(
    sync: SecretSync, found: SecretProviderClass | None, clouds: Collection[str], default_cloud: str
) -> ParsedSync:
    """Parse a SecretSync and its class. Raise `ClassError` for the class and `InputError` for the SecretSync."""
    if found is None:
        name = sync.spec.secret_provider_class_name
        raise ClassError(f"there is no SecretProviderClass {name}; create it or correct secretProviderClassName")
    source = read_class(found)
    asked = source.cloud or default_cloud
    cloud = find_cloud(asked, clouds)
    if cloud is None:
        raise UnknownCloudError(asked, clouds)
    if wrong := find_spec_mistake(sync):
        raise wrong
    return ParsedSync(msgspec.structs.replace(source, cloud=cloud), source.wanted(sync.spec.secret_object))


def refused(subject: str, error: ControllerError) -> CheckResult:
    """Return the check for what `understand` raised."""
    return failed(subject, "class" if isinstance(error, ClassError) else "mapping", error)


def checks_of(subject: str, found: ParsedSync) -> Iterable[CheckResult]:
    """Return the checks of a class and a mapping that are understood."""
    source = found.source
    yield ok(subject, "class", f"Key Vault {source.vault}, {len(source.all_objects)} objects, cloud {source.cloud}")
    for problem in source.item_problems:
        yield warn(subject, "class", problem, "correct it; the controller syncs the other objects of the class")


def roles(subject: str, identity: Identity, source: ProviderConfig) -> CheckResult:
    """Return the check that lists the roles that the whole class needs on its vault."""
    needed = ", ".join(roles_of(source)) or "no role: it has no usable object"
    return ok(subject, "roles", f"identity {identity.client_id} needs on Key Vault {source.vault}: {needed}")


def roles_of(source: ProviderConfig) -> tuple[str, ...]:
    """Return the roles that read the objects of a class, sorted."""
    return tuple(sorted({ROLES[found.type] for found in source.all_objects}))
