"""Limit the controller's other requests: tokens, events, its Lease, and the namespaces that it writes to.

One more policy answers another release that asks whether this release serves its namespaces.
"""

from controller.api.akvsync import AKVSync
from controller.api.conditions import Reason
from controller.api.lease import Lease
from controller.api.meta import Event, Secret, ServiceAccount
from controller.api.secretsync import SecretSync
from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS
from controller.kube import overlap
from controller.kube.event_recorder import ACTION, MAX_NOTE, REPORTER
from controller.kube.policy_guard import ONE_AUDIENCE, PROBE_AUDIENCE
from controller.secretsync.status_reporter import ATTENTION
from tools.codegen.policies.policy import (
    NOT_EXCLUDED,
    AdmissionPolicy,
    PolicyCondition,
    PolicyValidation,
    ResourceRule,
    metadata_stays,
    text,
)
from tools.codegen.rbac import FULL_NAME

# Helm expressions for the served namespaces, and for the release's own. A JSON list of texts is also a CEL list.
_SERVED = "{{ include `akv-secret-store.namespaces` . }}"
# The served namespaces for a sentence, at most 300 characters.
_SERVED_SHOWN = (
    "{{ include `akv-secret-store.namespaces` . | fromJsonArray | join `, ` | trunc 300 | default `all namespaces` }}"
)
_HOME = "'{{ include `akv-secret-store.namespace` . }}'"
_WATCHING = PolicyCondition(
    'include "akv-secret-store.namespaces" . | fromJsonArray', lambda settings: bool(settings.watch_namespaces)
)

TOKENS = AdmissionPolicy(
    name="tokens",
    why="The controller requests only tokens for Entra. The Kubernetes API does not accept these tokens.",
    rule=ResourceRule.of(ServiceAccount, "token"),
    operations=("CREATE",),
    validations=(
        PolicyValidation(
            "has(object.spec.audiences) && object.spec.audiences.size() == 1"
            f" && object.spec.audiences[0] == {text(TOKEN_AUDIENCE)}",
            ONE_AUDIENCE,
        ),
        PolicyValidation(
            f"has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= {TOKEN_SECONDS}",
            f"the lifetime of a token is at most {TOKEN_SECONDS} seconds",
        ),
        # The API server sends null for an absent field.
        PolicyValidation(
            "!has(object.spec.boundObjectRef) || object.spec.boundObjectRef == null",
            "a token must not be bound to another object",
        ),
        NOT_EXCLUDED,
    ),
)

EVENTS = AdmissionPolicy(
    name="events",
    why="The controller writes only events about SecretSyncs and AKVSyncs, with its own name and its own reasons.",
    rule=ResourceRule.of(Event),
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        PolicyValidation("request.operation == 'CREATE'", "the controller neither changes nor deletes events"),
        PolicyValidation(
            f"has(object.reportingController) && object.reportingController == {text(REPORTER)}"
            f" && has(object.action) && object.action == {text(ACTION)}"
            f" && has(object.reason) && object.reason in [{', '.join(map(text, (*Reason, ATTENTION)))}]"
            " && has(object.type) && object.type in ['Normal', 'Warning']",
            f"an event must have the reportingController {REPORTER}, its action, one of its reasons, and the type"
            " Normal or Warning",
        ),
        PolicyValidation(
            "has(object.regarding) && has(object.regarding.kind)"
            f" && object.regarding.kind in [{text(SecretSync.kind)}, {text(AKVSync.kind)}]"
            f" && has(object.regarding.apiVersion) && object.regarding.apiVersion == {text(SecretSync.api_version())}"
            " && has(object.regarding.namespace) && object.regarding.namespace == request.namespace"
            " && has(object.regarding.name) && !has(object.related)",
            f"an event must be about a {SecretSync.kind} or {AKVSync.kind} of its own namespace",
        ),
        PolicyValidation(
            f"!has(object.note) || object.note.size() <= {MAX_NOTE}",
            f"the note of an event must have at most {MAX_NOTE} characters",
        ),
        PolicyValidation(
            "!has(object.metadata.labels) && !has(object.metadata.annotations) && !has(object.metadata.finalizers)"
            " && !has(object.metadata.ownerReferences) && !has(object.series)"
            " && (!has(object.deprecatedSource) || !has(object.deprecatedSource.component))",
            "an event must not have labels, annotations, finalizers, owners, a series or a deprecated source",
        ),
    ),
)

LEASES = AdmissionPolicy(
    name="lease",
    why="The controller creates and renews its own Lease. It does not write other Leases.",
    rule=ResourceRule.of(Lease),
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        PolicyValidation(
            f"request.operation != 'DELETE' && request.namespace == {_HOME} && object.metadata.name == '{FULL_NAME}'",
            "the controller creates and updates only its own Lease, and deletes none",
        ),
        metadata_stays("the controller", "its Lease"),
    ),
)

NAMESPACES = AdmissionPolicy(
    name="namespaces",
    why="With `watchNamespaces`, the controller writes only to these namespaces, and its Lease in its own namespace. It"
    " does not write cluster-scoped objects.",
    rule=ResourceRule("*", "*", "*/*"),
    operations=("*",),
    variables=(
        # For a Namespace, request.namespace is its own name, although the object is cluster-scoped.
        (
            "place",
            "has(request.namespace) && request.resource.resource != 'namespaces' ? request.namespace : ''",
        ),
        ("lease", f"request.resource.resource == {text(Lease.plural)}"),
        # The controller is ready only after the policies on Secrets and tokens refused one request each. This policy
        # must not refuse these requests first.
        (
            "probe",
            f"request.operation == 'CREATE' && request.resource.resource == {text(Secret.plural)} && request.dryRun"
            f" || request.operation == 'CREATE' && request.resource.resource == {text(ServiceAccount.plural)}"
            " && request.subResource == 'token'"
            f" && has(object.spec.audiences) && object.spec.audiences == [{text(PROBE_AUDIENCE)}]",
        ),
    ),
    validations=(
        PolicyValidation(
            f"variables.place in {_SERVED} || variables.place == {_HOME} && (variables.lease || variables.probe)",
            "the controller does not write outside the chart's watchNamespaces",
        ),
    ),
    when=_WATCHING,
)

OVERLAP = AdmissionPolicy(
    name=overlap.POLICY,
    why="Another release asks by a dry run whether this release serves its namespaces. While a replica of this release"
    " leads, the policy answers yes by a refusal. It refuses no other request.",
    rule=ResourceRule.of(Lease),
    operations=("CREATE",),
    other_accounts="request.dryRun && has(object.spec) && has(object.spec.holderIdentity)"
    f" && object.spec.holderIdentity.startsWith({text(overlap.SERVES_PREFIX)})",
    variables=(
        ("asked", f"object.spec.holderIdentity.substring({len(overlap.SERVES_PREFIX)})"),
        ("theirs", "variables.asked.split(',')"),
        ("served", _SERVED),
        (
            "overlaps",
            "variables.asked == '' || variables.served.size() == 0"
            " || variables.served.exists(each, each in variables.theirs)",
        ),
        (
            "leads",
            "has(params.spec) && has(params.spec.holderIdentity) && params.spec.holderIdentity != ''",
        ),
    ),
    validations=(
        PolicyValidation(
            "!(variables.overlaps && variables.leads)",
            overlap.SERVED,
            message_expression=f"'release ' + {_HOME} + '/{FULL_NAME} serves {_SERVED_SHOWN}; '"
            " + params.spec.holderIdentity + ' leads it since its renewal at '"
            " + (has(params.spec.renewTime) ? string(params.spec.renewTime) : 'no time')"
            " + (has(params.spec.leaseDurationSeconds)"
            " ? ', with a Lease of ' + string(params.spec.leaseDurationSeconds) + ' s' : '')",
        ),
    ),
)
