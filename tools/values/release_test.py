"""`helm test`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tools.values.base import Values
from tools.values.pod import Image


class TestImage(Image):
    """The image of the test's Pod, the same program's with an emulator of Key Vault and Entra beside it."""

    registry: Annotated[str, Meta(description="The registry's host; empty: that of the controller's image.")] = ""
    repository: Annotated[str, Meta(min_length=1, description="The image's name.")] = "akv-secret-store-test"


class TestSample(Values):
    """A real secret to test with. Without one the test brings a vault of its own and trusts it while it runs."""

    keyvault_name: Annotated[
        str, Meta(description="A Key Vault in defaultCloud; nothing in it is changed. Empty: the test's own.")
    ] = ""
    client_id: Annotated[str, Meta(description="The client id of an identity that may read it.")] = msgspec.field(
        name="clientID", default=""
    )
    tenant_id: Annotated[str, Meta(description="The identity's tenant.")] = msgspec.field(name="tenantID", default="")
    secret_name: Annotated[str, Meta(description="The name of a secret in that vault.")] = ""
    sha256: Annotated[
        str,
        Meta(
            pattern=r"^([0-9A-Fa-f]{64})?$",
            description="The SHA-256 of its value, in hexadecimal; empty: any value will do. Not for a value that could"
            " be guessed.",
        ),
    ] = ""
    service_account: Annotated[
        str,
        Meta(
            description="A ServiceAccount that is federated with the identity, in the release's namespace, or in the"
            " first of watchNamespaces where the release's is not among them. Empty: one that is there for the time of"
            " the test, called as the release with -sample behind."
        ),
    ] = ""


class Test(Values):
    """`helm test`: whether the controller that was installed syncs a secret."""

    enabled: Annotated[
        bool,
        Meta(
            description="Whether there is a test; it needs rbac.create. With false the controller does not look for the"
            " cloud that a test brings."
        ),
    ] = True
    image: TestImage = msgspec.field(default_factory=TestImage)
    sample: TestSample = msgspec.field(default_factory=TestSample)
