"""Values for the controller's rights and the admission policies that limit them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from controller.api.akvsync import SECRET_TYPES
from controller.config.settings import Settings
from tools.codegen.values.base import (
    NAMESPACES,
    SERVICE_ACCOUNTS,
    Annotations,
    Labels,
    Resources,
    ValuesGroup,
    small_resources,
)


class AdmissionPolicies(ValuesGroup):
    """The admission policies that bind the controller (Kubernetes 1.30 and later)."""

    apply_policies: Annotated[
        bool,
        Meta(
            description="Install the admission policies. Without them the controller may ask for a token of any"
            " audience and write any Secret: see acceptUnrestrictedTokens."
        ),
    ] = True
    allowed_secret_types: Annotated[
        list[str],
        Meta(
            description="Types of Secrets that the controller may write, as a list or comma-separated. Tokens of"
            " ServiceAccounts, bootstrap tokens and records of helm are never allowed."
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


class AkvSync(ValuesGroup):
    """AKVSync: a vault and the Secrets to create from it, in one object (in preview in SSE)."""

    enabled: Annotated[
        bool,
        Meta(
            description="Serve AKVSyncs. With false, the controller has no right to create, change or delete"
            " SecretSyncs and SecretProviderClasses."
        ),
    ] = Settings().akv_sync


class TokenRequests(ValuesGroup):
    """The ServiceAccounts for which the controller can request tokens for Entra."""

    service_accounts: Annotated[
        list[str],
        Meta(
            description="Allowed ServiceAccounts, as namespace/name, or as a name for all namespaces that are served;"
            " as a list or comma-separated. A SecretSync with another ServiceAccount gets a status that says so. The"
            " namespaces must exist. Empty: every ServiceAccount. That of helm test's sample is always allowed.",
            extra_json_schema=SERVICE_ACCOUNTS,
            examples=[["shop/akv-reader", "akv-sync"]],
        ),
    ] = msgspec.field(default_factory=list)


class RoleValues(ValuesGroup):
    """Roles and their bindings."""

    create: Annotated[
        bool,
        Meta(
            description="Create Roles and bindings. With false, an administrator grants what the README lists, no Job"
            " updates the CRDs, and users get no rights."
        ),
    ] = True
    aggregate_to_default_roles: Annotated[
        bool,
        Meta(
            description="Let users with the ClusterRole view see AKVSyncs, SecretSyncs and SecretProviderClasses, and"
            " users with edit or admin write them. It has no effect with watchNamespaces, which grants no rights in"
            " the whole cluster."
        ),
    ] = True


class CrdJob(ValuesGroup):
    """The Job that updates the CRDs."""

    labels: Annotated[Labels, Meta(description="Labels of the CRD Job and its pod.")] = msgspec.field(
        default_factory=dict
    )
    annotations: Annotated[Annotations, Meta(description="Annotations of the CRD Job and its pod.")] = msgspec.field(
        default_factory=dict
    )
    resources: Annotated[Resources, Meta(description="CPU and memory of the CRD Job's container.")] = msgspec.field(
        default_factory=small_resources
    )


class CrdValues(ValuesGroup):
    """The CustomResourceDefinitions. helm installs missing ones and never removes any."""

    upgrade: Annotated[
        bool,
        Meta(
            description="Update the CRDs by a Job before an install or upgrade. It only adds to existing CRDs, and"
            " does not change the CSI driver's SecretProviderClass."
        ),
    ] = True
    job: CrdJob = msgspec.field(default_factory=CrdJob)
