"""SecretProviderClass (secrets-store.csi.x-k8s.io/v1), the CSI driver's type: the vault, the identity and the objects.

Source: Secrets Store CSI Driver, SecretProviderClass v1; SSE reference, "SecretProviderClass resources".
"""

from typing import Annotated, Self

import msgspec
from msgspec import Meta

from controller.api.meta import Resource, Wire

# Characters of all parameters together, enough for a thousand objects. The parser would need 140 MiB for a dense text
# of a million characters.
MAX_PARAMETERS = 128 * 1024


class SecretObjectData(Wire, frozen=True, kw_only=True):
    """One key of the CSI driver's own sync."""

    key: Annotated[str, Meta(description="Data key to fill.")] = ""
    object_name: Annotated[str, Meta(description="Name of the object.")] = ""


class SecretObject(Wire, frozen=True, kw_only=True):
    """A Secret that the CSI driver would write."""

    secret_name: Annotated[str, Meta(description="Name of the Secret.")] = ""
    type: Annotated[str, Meta(description="Type of the Secret.")] = ""
    labels: Annotated[dict[str, str], Meta(description="Labels of the Secret.")] = msgspec.field(default_factory=dict)
    annotations: Annotated[dict[str, str], Meta(description="Annotations of the Secret.")] = msgspec.field(
        default_factory=dict
    )
    data: Annotated[list[SecretObjectData], Meta(description="Keys of the Secret.")] = msgspec.field(
        default_factory=list
    )


class SecretProviderClassSpec(Wire, frozen=True, kw_only=True):
    """Provider and parameters. `secretObjects` belongs to the CSI driver; this controller ignores it."""

    provider: Annotated[str, Meta(description="`azure`; the controller ignores classes of other providers.")] = ""
    parameters: Annotated[
        dict[str, str],
        Meta(description="clientID, tenantID, keyvaultName, cloudName and objects, a YAML text with the list `array`."),
    ] = msgspec.field(default_factory=dict)
    secret_objects: Annotated[
        list[SecretObject],
        Meta(description="The CSI driver's own sync: allowed, and ignored by this controller."),
    ] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        size = sum(map(len, self.parameters.values()))
        if size > MAX_PARAMETERS:
            text = f"its parameters have {size} characters, and at most {MAX_PARAMETERS} are read"
            raise ValueError(f"{text}; put some of its objects into another class")


class ByPodStatus(Wire, frozen=True, kw_only=True):
    """The report of one pod of the CSI driver."""

    id: Annotated[str, Meta(description="Id of the pod that wrote the status.")] = ""
    namespace: Annotated[str, Meta(description="Namespace of that pod.")] = ""


class SecretProviderClassStatus(Wire, frozen=True, kw_only=True):
    """The status that the CSI driver writes."""

    by_pod: Annotated[list[ByPodStatus], Meta(description="One item for each pod.")] = msgspec.field(
        default_factory=list
    )


class SecretProviderClass(Resource, frozen=True, kw_only=True):
    """Names a Key Vault, the identity that reads it, and the objects to read."""

    group = "secrets-store.csi.x-k8s.io"
    version = "v1"
    kind = "SecretProviderClass"
    plural = "secretproviderclasses"

    spec: SecretProviderClassSpec = msgspec.field(default_factory=SecretProviderClassSpec)
    # `status` belongs to the CSI driver: the CRD has it (tools/codegen/crds.py), the controller never reads it.

    def trimmed(self) -> Self:
        """Return the class without the fields that belong to the CSI driver."""
        spec = msgspec.structs.replace(self.spec, secret_objects=[])
        return msgspec.structs.replace(self, spec=spec, metadata=self.metadata.trimmed())
