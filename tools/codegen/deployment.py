"""Map each field of the controller's `Settings` to its source in the chart: the Deployment's environment."""

from dataclasses import dataclass

from controller.config.settings import Settings
from tools.helm_test import settings as release_test

FOLDER = "/etc/akv-secret-store"
CLOUDS_FILE, CA_FILE = "clouds.json", "ca.pem"
LOGS_FOLDER = "/etc/akv-secret-store-logs"
METRICS_TLS_FOLDER = "/etc/akv-secret-store-metrics"
TEST_CLOUDS_FOLDER = "/etc/akv-secret-store-test"
MOUNTED = (FOLDER, LOGS_FOLDER, METRICS_TLS_FOLDER, TEST_CLOUDS_FOLDER)
# A Secret type that the policies never allow: its refusal proves that the policies are in force.
PROBE_SECRET_TYPE = "akv-secret-store/probe"  # noqa: S105 -- a type's name
# Settings of glibc's allocator. The Deployment explains them.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
# Twice the seconds that the controller needs at most to finish its work after SIGTERM.
GRACE_SECONDS = 20


@dataclass(frozen=True)
class EnvironmentVariable:
    """One environment variable: a Helm expression or a field of the pod, set if the Helm condition `when` holds."""

    value: str = ""
    pod_field: str = ""
    when: str = ""
    name: str = ""


SOURCES: dict[str, EnvironmentVariable] = {
    "rotation_poll_interval": EnvironmentVariable("int64 .Values.rotationPollIntervalInSeconds"),
    "enable_partial_secret_sync": EnvironmentVariable(
        'include "akv-secret-store.on" .Values.enablePartialSecretSync | default "false"'
    ),
    "jitter": EnvironmentVariable("int64 .Values.jitterSeconds"),
    "drift_interval": EnvironmentVariable("int64 .Values.driftIntervalInSeconds"),
    "shortest_refresh_interval": EnvironmentVariable("int64 .Values.shortestRefreshIntervalInSeconds"),
    "normal_events": EnvironmentVariable('include "akv-secret-store.on" .Values.normalEvents | default "false"'),
    "identity_from_service_account": EnvironmentVariable(
        'include "akv-secret-store.true" .Values.identityFromServiceAccount | default "false"'
    ),
    "akv_sync": EnvironmentVariable('include "akv-secret-store.on" .Values.akvSync.enabled | default "false"'),
    "controller_name": EnvironmentVariable(".Values.controllerName"),
    "watch_namespaces": EnvironmentVariable('include "akv-secret-store.namespaces" . | fromJsonArray | join ","'),
    "default_cloud": EnvironmentVariable('include "akv-secret-store.defaultCloud" .'),
    "clouds_file": EnvironmentVariable(f'"{FOLDER}/{CLOUDS_FILE}"', when=".Values.clouds"),
    "ca_file": EnvironmentVariable(f'"{FOLDER}/{CA_FILE}"', when='include "akv-secret-store.ca" .'),
    "test_clouds_file": EnvironmentVariable(
        f'"{TEST_CLOUDS_FOLDER}/{release_test.CLOUDS_FILE}"', when='include "akv-secret-store.testVault" .'
    ),
    "probe_secret_type": EnvironmentVariable(f'"{PROBE_SECRET_TYPE}"', when='include "akv-secret-store.policies" .'),
    "allowed_secret_types": EnvironmentVariable(
        'include "akv-secret-store.list" .Values.validatingAdmissionPolicies.allowedSecretTypes | fromJsonArray'
        ' | join ","',
        when='include "akv-secret-store.policies" .',
    ),
    "policies_name": EnvironmentVariable(
        'include "akv-secret-store.globalName" .', when='include "akv-secret-store.policies" .'
    ),
    "service_account": EnvironmentVariable(pod_field="spec.serviceAccountName"),
    "lease_name": EnvironmentVariable('include "akv-secret-store.fullname" .'),
    "lease_duration": EnvironmentVariable('include "akv-secret-store.leaseDuration" .'),
    "lease_renew_interval": EnvironmentVariable('include "akv-secret-store.leaseRenewInterval" .'),
    "pod_namespace": EnvironmentVariable(pod_field="metadata.namespace"),
    "pod_name": EnvironmentVariable(pod_field="metadata.name"),
    "listen_port": EnvironmentVariable("int64 .Values.metrics.port"),
    "health_port": EnvironmentVariable("int64 .Values.healthPort"),
    "metrics_tls_folder": EnvironmentVariable(f'"{METRICS_TLS_FOLDER}"', when=".Values.metrics.tls.secretName"),
    "metrics_authentication": EnvironmentVariable(
        'include "akv-secret-store.true" .Values.metrics.authentication.enabled | default "false"'
    ),
    "otlp_endpoint": EnvironmentVariable(".Values.logs.otlp.endpoint", when='include "akv-secret-store.logs" .'),
    "otlp_folder": EnvironmentVariable(f'"{LOGS_FOLDER}"', when='include "akv-secret-store.logs" .'),
    "log_level": EnvironmentVariable(".Values.logLevel"),
}
# The values have no name for this field: `extraArgs` can set it.
_NOT_SET = frozenset({"listen_address"})


class SourceError(Exception):
    """Settings and sources do not match. The message names the field."""


def environment(sources: dict[str, EnvironmentVariable] | None = None) -> list[EnvironmentVariable]:
    """Return one variable for each field of `Settings`, in its order. Raise `SourceError`."""
    sources = SOURCES if sources is None else sources
    fields = set(Settings.__struct_fields__)
    if missing := sorted(fields - sources.keys() - _NOT_SET):
        raise SourceError(
            f"the chart sets no variable for {', '.join(missing)} of Settings: add it to tools/codegen/deployment.py"
        )
    if unknown := sorted((sources.keys() | _NOT_SET) - fields):
        raise SourceError(f"Settings has no field {', '.join(unknown)}: remove it from tools/codegen/deployment.py")
    return [
        EnvironmentVariable(source.value, source.pod_field, source.when, field.upper())
        for field in Settings.__struct_fields__
        if (source := sources.get(field))
    ]
