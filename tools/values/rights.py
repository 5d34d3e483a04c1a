"""What the controller may do, and what watches over it."""

from typing import Annotated

import msgspec
from msgspec import Meta

from controller.api.akvsync import SECRET_TYPES
from controller.settings import Settings
from tools.values.base import NAMESPACES, Values


class Policies(Values):
    """The admission policies that bind the controller (Kubernetes 1.30 and later)."""

    apply_policies: Annotated[
        bool,
        Meta(
            description="Whether the policies are installed. Without them the controller may ask for a token of any"
            " audience and write any Secret: see acceptUnrestrictedTokens."
        ),
    ] = True
    allowed_secret_types: Annotated[
        list[str],
        Meta(
            description="The types of Secret that the controller may write, as a list or comma-separated."
            " Tokens of ServiceAccounts, bootstrap tokens and records of helm are never allowed."
        ),
    ] = msgspec.field(default_factory=lambda: list(SECRET_TYPES))
    excluded_namespaces: Annotated[
        list[str],
        Meta(
            description="Namespaces in which the controller writes nothing and asks for no token, as a list or"
            " comma-separated: a SecretSync there gets a status that says so. A namespace that watchNamespaces names is"
            " not excluded.",
            extra_json_schema=NAMESPACES,
        ),
    ] = msgspec.field(default_factory=lambda: ["kube-system", "kube-public", "kube-node-lease"])


class AkvSync(Values):
    """AKVSync: a vault and the Secrets to make of it in one object (SSE has it in preview)."""

    enabled: Annotated[
        bool,
        Meta(
            description="Whether AKVSyncs are served. With false the controller has no right to make, change or delete"
            " SecretSyncs and SecretProviderClasses."
        ),
    ] = Settings().akv_sync


class Rbac(Values):
    """Roles and their bindings."""

    create: Annotated[
        bool,
        Meta(
            description="Whether the chart makes them. If not, somebody else must grant what the README lists; no Job"
            " brings CRDs up to date then, and people get no rights."
        ),
    ] = True
    aggregate_to_default_roles: Annotated[
        bool,
        Meta(
            description="Whether whoever has the ClusterRole view may see AKVSyncs, SecretSyncs and"
            " SecretProviderClasses, and whoever has edit or admin may write them. Not with watchNamespaces:"
            " nothing is granted in the cluster at large then."
        ),
    ] = True


class Crds(Values):
    """The CustomResourceDefinitions: helm installs them where they are missing and never removes them."""

    upgrade: Annotated[
        bool,
        Meta(
            description="Whether a Job brings them up to date before an install or upgrade. It only ever adds to what"
            " is there, and leaves a SecretProviderClass of the CSI driver alone."
        ),
    ] = True
