"""ValidatingAdmissionPolicies that limit the controller, and an attacker with its token, to the controller's tasks.

RBAC cannot express "only Secrets that a SecretSync owns", and the answer to a patch contains the whole object.
Therefore these rules check the requests of the controller's ServiceAccount. Two policies check the requests of other
accounts. Each refusal explains its rule. Source: Kubernetes documentation, "Validating Admission Policy"
(admissionregistration.k8s.io/v1).
"""

from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from tools.codegen.policies import requests, resources, secrets
from tools.codegen.policies.policy import AdmissionPolicy
from tools.codegen.policies.resources import CRD_JOB
from tools.codegen.policies.secrets import NEVER_ALLOWED

__all__ = ["CRD_JOB", "NEVER_ALLOWED", "POLICIES", "SINCE"]

# The first Kubernetes release that serves ValidatingAdmissionPolicy as v1.
SINCE = "1.30"
POLICIES: tuple[AdmissionPolicy, ...] = (
    secrets.SECRETS,
    secrets.NO_DELETE,
    requests.TOKENS,
    requests.EVENTS,
    requests.LEASES,
    requests.NAMESPACES,
    requests.OVERLAP,
    resources.SECRET_TYPE_STAYS,
    resources.generated_kind_policy(SecretSync),
    resources.generated_kind_policy(SecretProviderClass),
)
