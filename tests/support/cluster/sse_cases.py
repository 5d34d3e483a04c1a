"""The features of SSE, row by row, with test cases: input, and the resulting Secret or error.

Source: SSE's reference, guide and troubleshooting page, the CRD of the Secrets Store Sync Controller, and the CSI
provider's parameters, as `ROWS` lists them. test_sse_*.py run all cases. test_sse_rows.py fails for a row without a
case.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat

from controller.api.conditions import Reason
from tests.support.certificates import (
    IssuedCertificate,
    encode_pem_bundle,
    encode_pfx,
    encode_private_key,
    generate_key,
    issue_certificate,
)
from tests.support.messages import NOT_IN_KEY_VAULT

Test = TypeVar("Test", bound=Callable[..., None])

ROWS: Mapping[str, str] = {
    "setting": """
        rotationPollIntervalInSeconds, enablePartialSecretSync, jitterSeconds, the names of release and namespace,
        validatingAdmissionPolicies.applyPolicies, validatingAdmissionPolicies.allowedSecretTypes, kubectl.image
    """,
    "guide": """
        ServiceAccount, SecretProviderClass, SecretSync, kubectl get secrets, kubectl get secret -o jsonpath,
        no /0 below two versions, uninstalling leaves everything, deleting the CRD removes all but edited ownership
    """,
    "class": """
        v1, v1alpha1, provider, clientID, clientId, tenantID, tenantId, keyvaultName, objects, cloudName,
        cloudEnvFileName, usePodIdentity, useVMManagedIdentity, userAssignedIdentityID, useAzureTokenProxy,
        secretObjects
    """,
    "object": """
        objectName, objectType secret, objectType cert, objectType key, objectVersion, objectVersionHistory,
        objectAlias, objectFormat pem, objectFormat pfx, objectEncoding utf-8, objectEncoding hex,
        objectEncoding base64, filePermission, white space, contentType application/x-pem-file,
        contentType application/x-pkcs12
    """,
    "sourcePath": """
        name, alias, name/0, name/1, no /0 without history, certificate/tls.crt, certificate/tls.key, certificate.crt,
        certificate.key, certificate whole, certificate/0, certificate/0/tls.crt, certificate/1.key, cert, key,
        tls.crt of a TLS Secret, tls.key of a TLS Secret as PKCS#1, tls.key of a TLS Secret as SEC 1
    """,
    "spec": """
        secretProviderClassName, serviceAccountName, secretSyncControllerName, type, type is immutable, data,
        data by targetKey, sourcePath, targetKey, labels, annotations, forceSynchronization
    """,
    "status": "syncHash, lastSuccessfulSyncTime, conditions",
    "life": "the Secret's name, dies with it, a change of spec polls now, missing while it is reconciled",
    "reason": """
        UpdateNoValueChangeSucceeded, UpdateValueChangeOrForceUpdateSucceeded, PartialSync, ProviderError,
        InvalidClusterSecretLabelError, InvalidClusterSecretAnnotationError, UserInputValidationFailed,
        ControllerSpcError, ControllerInternalError, ValidatingAdmissionPolicyCheckFailed, ControllerSyncFailed,
        UnknownError
    """,
    "AKVSync": """
        manifest, keyvaultName, clientID, tenantID, serviceAccountName, objects, secretInAKV, certInAKV, mapping,
        exactly one of these, kubernetesSecretName, kubernetesSecretType, the type stays, labels, annotations,
        versionHistory, versionHistory of TLS, no versionHistory on a compound, dataKey, mapping's one of, version,
        equal objects kept so, never overwritten, status of every part, deleting it
    """,
    "fleet": "suggestions for jitterSeconds, worst case",
    "migration": "from the CSI driver, to an AKVSync, from SSE in place",
}

# Rows that another test covers, on the real API server or, for pure calculations, without one.
COVERED_ELSEWHERE: Mapping[str, str] = {
    "setting: jitterSeconds": (
        "unit/secretsync/reconciler/test_schedule.py::test_jitter_delays_first_syncs_polls_and_edits"
    ),
    "setting: validatingAdmissionPolicies.applyPolicies": "cluster/test_arc.py::test_string_false_disables_policies",
    "guide: uninstalling leaves everything": "node/test_release.py::test_uninstallation_keeps_crds_and_secrets",
    "guide: deleting the CRD removes all but edited ownership": (
        "node/test_release.py::test_deleted_crd_removes_only_secrets_that_are_still_owned"
    ),
    "reason: ControllerInternalError": "cluster/test_failures.py::test_unexpected_error_affects_one_secretsync",
    "reason: ValidatingAdmissionPolicyCheckFailed": (
        "cluster/test_failures.py::test_refusal_by_a_policy_of_the_cluster_is_reported"
    ),
    "AKVSync: the type stays": "cluster/test_akvsync.py::test_new_secret_type_waits_until_the_secretsync_is_deleted",
    "AKVSync: equal objects kept so": (
        "cluster/test_akvsync.py::test_manual_edit_or_deletion_of_a_generated_object_is_reverted"
    ),
    "AKVSync: never overwritten": (
        "cluster/test_akvsync.py::test_secretsync_of_another_owner_is_reported_and_not_changed"
    ),
    "fleet: suggestions for jitterSeconds": "unit/cli/capacity/test_fleet.py::test_table_of_sse_is_reproduced",
    "fleet: worst case": "unit/cli/capacity/test_fleet.py::test_short_wait_needs_more_vaults",
    "migration: from the CSI driver": "cluster/test_migrate.py::test_migration_from_the_csi_driver_syncs_its_secrets",
    "migration: to an AKVSync": "cluster/test_migrate.py::test_migration_from_the_csi_driver_to_an_akvsync",
    "migration: from SSE in place": "cluster/test_migrate.py::test_secret_is_taken_over_from_sse_and_handed_back",
}

covered_rows: set[str] = set(COVERED_ELSEWHERE)


def covers_rows(*rows: str) -> Callable[[Test], Test]:
    """Mark a test as the case of these rows."""
    covered_rows.update(rows)
    return lambda test: test


# --- The vault's objects ---------------------------------------------------------------------------------------------

TODAY = datetime.now(UTC)
ISSUER = issue_certificate("issuer", ca=True, start=TODAY)
OLD, NEW = (issue_certificate("web", ISSUER, start=TODAY) for _ in range(2))
RSA = issue_certificate("shop", ISSUER, key=generate_key("RSA"), start=TODAY)
TOKENS = ("older", "newer")
BYTES = b"\x00\xffA"
PFX = encode_pfx(RSA.key, [RSA, ISSUER])


def encode_traditional_key(leaf: IssuedCertificate) -> str:
    """Return the private key as PKCS#1 or SEC 1."""
    return encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL)


def encode_public_key(leaf: IssuedCertificate) -> str:
    return leaf.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def encode_chain(leaf: IssuedCertificate) -> str:
    return leaf.pem + ISSUER.pem


def encode_bundle(leaf: IssuedCertificate) -> str:
    return encode_pem_bundle(leaf, ISSUER).decode()


# --- A class and a SecretSync, and the resulting Secret or error -----------------------------------------------------


class Case(NamedTuple):
    """One class with one SecretSync, both of that name. The test replaces {client}, {tenant} and {vault} in texts.

    `rows` are the rows that the case covers. `objects` are the items of `array`. `data` maps targetKey to sourcePath.
    `secret` is the whole data of the Secret; it is empty if no Secret may exist.
    """

    name: str
    rows: Sequence[str]
    objects: Sequence[str] = ("objectName: token",)
    data: Mapping[str, str] = {"k": "token"}
    secret: Mapping[str, str | bytes] = {}
    reason: Reason | None = None
    said: str = ""
    parameters: Mapping[str, str] = {}
    provider_class: Mapping[str, Any] = {}
    spec: Mapping[str, Any] = {}
    secret_object: Mapping[str, Any] = {}


NEWER: Mapping[str, str | bytes] = {"k": "newer"}
WEB = "objectName: web\nobjectType: secret"
TLS = {"type": "kubernetes.io/tls"}
PAIR = {"tls.crt": "web", "tls.key": "web"}


def make_switch_cases(switch: str) -> tuple[Case, Case]:
    """Return the cases of a switch of another sign-in method, which is allowed only if it is off."""
    rows = [f"class: {switch}"]
    return (
        Case(f"{switch} false", rows, parameters={switch: "false"}, secret=NEWER),
        Case(
            f"{switch} true",
            rows,
            parameters={switch: "true"},
            reason=Reason.SPC_ERROR,
            said=f"parameter {switch} is 'true': only workload identity is supported; remove it and set clientID and",
        ),
    )


def make_type_case(kind: str, *keys: str, source: str = "token") -> Case:
    """Return the case of a Secret of a built-in type with its required keys."""
    return Case(
        kind.replace("kubernetes.io/", "type "),
        ["spec: type"],
        (f"objectName: {source}",),
        dict.fromkeys(keys, source),
        dict.fromkeys(keys, "{}" if source == "registry" else "newer"),
        secret_object={"type": kind},
    )


CASES: tuple[Case, ...] = (
    # The SecretProviderClass
    Case("v1", ["class: v1", "class: provider", "class: objects", "object: objectName", "sourcePath: name"],
         secret=NEWER),
    Case("v1alpha1", ["class: v1alpha1"], provider_class={"apiVersion": "secrets-store.csi.x-k8s.io/v1alpha1"},
         secret=NEWER),
    Case("provider vault", ["class: provider"], provider_class={"spec": {"provider": "vault"}},
         reason=Reason.SPC_ERROR, said="spec.provider is 'vault': this controller serves only azure"),
    Case("clientID and tenantID", ["class: clientID", "class: tenantID"],
         parameters={"clientID": " {client} ", "tenantID": "{tenant}\n"}, secret=NEWER),
    Case("clientId and tenantId", ["class: clientId", "class: tenantId"],
         parameters={"clientID": "", "tenantID": "", "clientId": "{client}", "tenantId": "{tenant}"}, secret=NEWER),
    Case("no clientID", ["class: clientID"], parameters={"clientID": ""},
         reason=Reason.SPC_ERROR, said="parameter clientID is missing: set it to the managed identity's client id"),
    Case("no tenantID", ["class: tenantID"], parameters={"tenantID": ""},
         reason=Reason.SPC_ERROR, said="parameter tenantID is missing: set it to the Key Vault's tenant id"),
    Case("keyvaultName", ["class: keyvaultName"], parameters={"keyvaultName": "{vault}"}, secret=NEWER),
    Case("keyvaultName with a host in it", ["class: keyvaultName"], parameters={"keyvaultName": "evil.example/x"},
         reason=Reason.SPC_ERROR, said="parameter keyvaultName is 'evil.example/x': expected a Key Vault's name"),
    Case("no objects", ["class: objects"], (), reason=Reason.SPC_ERROR,
         said="parameter objects: expected `array:` with one `- |` item per object"),
    Case("cloudName of the administrator's", ["class: cloudName"], parameters={"cloudName": "emulator"}, secret=NEWER),
    Case("unknown cloudName", ["class: cloudName"], parameters={"cloudName": "https://evil.example"},
         reason=Reason.SPC_ERROR, said="AzureChinaCloud, AzurePublicCloud, AzureUSGovernmentCloud, emulator, nowhere"),
    Case("cloudEnvFileName", ["class: cloudEnvFileName"], parameters={"cloudEnvFileName": "/etc/cloud.json"},
         reason=Reason.SPC_ERROR, said="cloudEnvFileName names a file on the node: ask the administrator to add"),
    *make_switch_cases("usePodIdentity"),
    *make_switch_cases("useVMManagedIdentity"),
    *make_switch_cases("useAzureTokenProxy"),
    Case("userAssignedIdentityID empty", ["class: userAssignedIdentityID"],
         parameters={"userAssignedIdentityID": ""}, secret=NEWER),
    Case("userAssignedIdentityID beside clientID", ["class: userAssignedIdentityID"],
         parameters={"userAssignedIdentityID": "x"}, secret=NEWER),
    Case("userAssignedIdentityID", ["class: userAssignedIdentityID"],
         parameters={"userAssignedIdentityID": "x", "clientID": ""},
         reason=Reason.SPC_ERROR, said="belongs to another way to sign in: rename it to clientID"),
    Case("secretObjects", ["class: secretObjects"], secret=NEWER,
         provider_class={"spec": {"secretObjects": [{"secretName": "not-made", "type": "Opaque",
                                                     "data": [{"objectName": "token", "key": "k"}]}]}}),
    # The objects of the SecretProviderClass
    Case("objectType secret", ["object: objectType secret"], ("objectName: token\nobjectType: secret",), secret=NEWER),
    Case("objectType cert", ["object: objectType cert", "sourcePath: cert"], ("objectName: web\nobjectType: cert",),
         {"k": "web"}, {"k": NEW.pem}),
    Case("objectType key", ["object: objectType key", "sourcePath: key"], ("objectName: web\nobjectType: key",),
         {"k": "web"}, {"k": encode_public_key(NEW)}),
    Case("unknown objectType", ["object: objectType secret"], ("objectName: token\nobjectType: sekret",),
         reason=Reason.SPC_ERROR, said="item 0 (line 2): objectType is 'sekret': expected secret, cert or key"),
    Case("objectVersion", ["object: objectVersion"], ("objectName: token\nobjectVersion: {first}",),
         secret={"k": "older"}),
    Case("objectVersionHistory", ["object: objectVersionHistory", "sourcePath: name/0", "sourcePath: name/1"],
         ("objectName: token\nobjectVersionHistory: 2",), {"a": "token/0", "b": "token/1"},
         {"a": "newer", "b": "older"}),
    Case("objectAlias", ["object: objectAlias", "sourcePath: alias"], ("objectName: token\nobjectAlias: my.token",),
         {"k": "my.token"}, NEWER),
    Case("objectFormat pem", ["object: objectFormat pem", "object: contentType application/x-pkcs12"],
         ("objectName: shop\nobjectFormat: pem", "objectName: shop\nobjectAlias: same"), {"a": "shop", "b": "same"},
         dict.fromkeys("ab", encode_private_key(RSA.key) + encode_chain(RSA))),
    Case("objectFormat pfx", ["object: objectFormat pfx", "object: contentType application/x-pkcs12"],
         ("objectName: shop\nobjectFormat: pfx",), {"k": "shop"}, {"k": PFX}),
    Case("a certificate's PEM", ["object: contentType application/x-pem-file", "sourcePath: certificate whole"],
         (WEB,), {"k": "web"}, {"k": encode_bundle(NEW)}),
    Case("objectEncoding utf-8", ["object: objectEncoding utf-8"], ("objectName: token\nobjectEncoding: utf-8",),
         secret=NEWER),
    Case("objectEncoding hex", ["object: objectEncoding hex"], ("objectName: as-hex\nobjectEncoding: hex",),
         {"k": "as-hex"}, {"k": BYTES}),
    Case("objectEncoding base64", ["object: objectEncoding base64"],
         ("objectName: as-base64\nobjectEncoding: base64",), {"k": "as-base64"}, {"k": BYTES}),
    Case("filePermission", ["object: filePermission"], ('objectName: token\nfilePermission: "0600"',), secret=NEWER),
    Case("white space", ["object: white space"],
         ('objectName: "  token "\nobjectType: " secret "\nobjectAlias: " t "\nobjectVersion: " "',),
         {"k": "t"}, NEWER),
    # Each form of a sourcePath
    Case("no 0 without history", ["sourcePath: no /0 without history", "guide: no /0 below two versions"],
         data={"k": "token/0"}, reason=Reason.INPUT_INVALID,
         said="token has no objectVersionHistory above 1 in the SecretProviderClass, so write only token"),
    Case("the parts of a certificate",
         ["sourcePath: certificate/tls.crt", "sourcePath: certificate/tls.key", "sourcePath: certificate.crt",
          "sourcePath: certificate.key"],
         (WEB,), {"a": "web/tls.crt", "b": "web/tls.key", "c": "web.crt", "d": "web.key"},
         {"a": encode_chain(NEW), "b": encode_private_key(NEW.key),
          "c": encode_chain(NEW), "d": encode_private_key(NEW.key)}),
    Case("the parts of its versions",
         ["sourcePath: certificate/0", "sourcePath: certificate/0/tls.crt", "sourcePath: certificate/1.key"],
         (WEB + "\nobjectVersionHistory: 2",), {"a": "web/0", "b": "web/0/tls.crt", "c": "web/1.key", "d": "web/1"},
         {"a": encode_bundle(NEW), "b": encode_chain(NEW), "c": encode_private_key(OLD.key), "d": encode_bundle(OLD)}),
    Case("a TLS Secret of a PEM", ["sourcePath: tls.crt of a TLS Secret",
                                   "sourcePath: tls.key of a TLS Secret as SEC 1", "spec: type"],
         (WEB,), PAIR, {"tls.crt": encode_chain(NEW), "tls.key": encode_traditional_key(NEW)}, secret_object=TLS),
    Case("a TLS Secret of a PFX", ["sourcePath: tls.crt of a TLS Secret",
                                   "sourcePath: tls.key of a TLS Secret as PKCS#1", "spec: type"],
         ("objectName: shop",), {"tls.crt": "shop.crt", "tls.key": "shop/tls.key"},
         {"tls.crt": encode_chain(RSA), "tls.key": encode_traditional_key(RSA)}, secret_object=TLS),
    # The SecretSync
    Case("no such class", ["spec: secretProviderClassName", "reason: ControllerSpcError"],
         spec={"secretProviderClassName": "missing"}, reason=Reason.SPC_ERROR, said="no SecretProviderClass missing"),
    Case("no such ServiceAccount", ["spec: serviceAccountName", "reason: ProviderError"],
         spec={"serviceAccountName": "missing"}, reason=Reason.PROVIDER_ERROR,
         said="there is no ServiceAccount missing"),
    Case("Opaque by itself", ["spec: type"], secret=NEWER, secret_object={"type": None}),
    make_type_case("kubernetes.io/ssh-auth", "ssh-privatekey"),
    make_type_case("kubernetes.io/basic-auth", "username", "password"),
    make_type_case("kubernetes.io/dockercfg", ".dockercfg", source="registry"),
    make_type_case("kubernetes.io/dockerconfigjson", ".dockerconfigjson", source="registry"),
    Case("a type without its key", ["spec: type", "reason: UserInputValidationFailed"], secret_object=TLS,
         reason=Reason.INPUT_INVALID, said="needs the key tls.crt"),
    Case("a type that is not allowed", ["reason: UserInputValidationFailed",
                                        "setting: validatingAdmissionPolicies.allowedSecretTypes"],
         secret_object={"type": "example.com/own"}, reason=Reason.INPUT_INVALID, said="allowedSecretTypes"),
    Case("labels and annotations", ["spec: labels", "spec: annotations"], secret=NEWER,
         secret_object={"labels": {"tier": "data"}, "annotations": {"note": "rotated-weekly"}}),
    Case("another controller's", ["spec: secretSyncControllerName"], spec={"secretSyncControllerName": "another"}),
    Case("an object that is not there", ["reason: PartialSync"], ("objectName: token", "objectName: none"),
         {"k": "token", "n": "none"}, NEWER, Reason.PARTIAL, f"secret none {NOT_IN_KEY_VAULT} {{vault}}"),
    Case("no object that is there", ["reason: ProviderError"], ("objectName: none",), {"k": "none"},
         reason=Reason.PROVIDER_ERROR, said=f"secret none {NOT_IN_KEY_VAULT} {{vault}}; create or recover it there"),
)  # fmt: skip
