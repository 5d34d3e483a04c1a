"""Values for `helm test`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tools.codegen.values import kubernetes
from tools.codegen.values.base import Annotations, Labels, Resources, ValuesGroup, small_resources
from tools.codegen.values.pod import ImageReference


class TestImage(ImageReference):
    """The image of the test's Pod: the controller's program with an emulator of Key Vault and Entra."""

    registry: Annotated[
        str,
        Meta(
            description="Registry of the test's image; empty: that of the controller's image.",
            extra_json_schema=kubernetes.REGISTRY,
        ),
    ] = ""
    repository: Annotated[
        str, Meta(min_length=1, description="Name of the test's image.", extra_json_schema=kubernetes.REPOSITORY)
    ] = "akv-secret-store-test"
    tag: Annotated[
        str,
        Meta(description="Tag of the test's image; empty: the chart's appVersion.", extra_json_schema=kubernetes.TAG),
    ] = ""
    digest: Annotated[
        str,
        Meta(
            pattern=r"^(sha256:[0-9a-f]{64})?$",
            description="Digest of the test's image, as sha256:…; it replaces the tag.",
        ),
    ] = ""
    pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Meta(description="When the kubelet pulls the test's image.")
    ] = "IfNotPresent"


class TestSample(ValuesGroup):
    """A real secret for the test.

    Without one, the test starts its own vault, which the controller trusts during the test.
    """

    keyvault_name: Annotated[
        str,
        Meta(
            pattern="^([A-Za-z](-?[A-Za-z0-9])*)?$",
            description="Key Vault in defaultCloud to test with; the test only reads it. Empty: the test's own vault.",
        ),
    ] = ""
    client_id: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9-]*$",
            description="Client id of an identity that may read test.sample.keyvaultName.",
        ),
    ] = msgspec.field(name="clientID", default="")
    tenant_id: Annotated[str, Meta(pattern="^[A-Za-z0-9.-]*$", description="Tenant of test.sample.clientID.")] = (
        msgspec.field(name="tenantID", default="")
    )
    secret_name: Annotated[
        str, Meta(pattern="^[0-9A-Za-z-]*$", description="Name of a secret in test.sample.keyvaultName.")
    ] = ""
    sha256: Annotated[
        str,
        Meta(
            pattern=r"^([0-9A-Fa-f]{64})?$",
            description="SHA-256 of the value of test.sample.secretName, in hexadecimal; empty: any value passes. Do"
            " not set it for a value that can be guessed.",
        ),
    ] = ""
    service_account: Annotated[
        str,
        Meta(
            description="ServiceAccount that is federated with test.sample.clientID, in the release's namespace, or"
            " in the first of watchNamespaces if the release's is not among them. Empty: one that the chart creates,"
            " named <full name of the release>-sample.",
            extra_json_schema=kubernetes.NAME,
        ),
    ] = ""


class HelmTest(ValuesGroup):
    """`helm test`, which checks that the installed controller syncs a secret."""

    enabled: Annotated[
        bool,
        Meta(
            description="Render the objects of `helm test`, which needs rbac.create. With false, the controller does"
            " not accept the cloud that a test brings."
        ),
    ] = True
    image: TestImage = msgspec.field(default_factory=TestImage)
    labels: Annotated[Labels, Meta(description="Labels of the test's Pod.")] = msgspec.field(default_factory=dict)
    annotations: Annotated[Annotations, Meta(description="Annotations of the test's Pod.")] = msgspec.field(
        default_factory=dict
    )
    resources: Annotated[Resources, Meta(description="CPU and memory of the test's container.")] = msgspec.field(
        default_factory=small_resources
    )
    sample: TestSample = msgspec.field(default_factory=TestSample)
