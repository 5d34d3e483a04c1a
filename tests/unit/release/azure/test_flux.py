"""Test that the manifests for Flux match its CRDs, and that the az command refers to them."""

from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.arm_schemas import TEXT, TRUTH, Schema, object_schema
from tools.cli.common import helm
from tools.cli.render import render
from tools.release import oci
from tools.release.azure import flux

DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"}
COUNT: Schema = {"type": "integer"}
METADATA = object_schema("name namespace", name=TEXT, namespace={"const": helm.RELEASE})


def make_kind_schema(group: str, name: str, **more: Schema) -> Schema:
    return object_schema(
        "apiVersion kind metadata",
        apiVersion={"const": group},
        kind={"const": name},
        metadata=METADATA,
        **more,
    )


# The fields that the manifests use, from the CRDs of Flux 2.6 (source.toolkit.fluxcd.io/v1, helm.toolkit.fluxcd.io/v2).
KINDS = {
    "OCIRepository": make_kind_schema(
        "source.toolkit.fluxcd.io/v1",
        "OCIRepository",
        spec=object_schema(
            "interval url",
            interval=DURATION,
            url={"type": "string", "pattern": "^oci://.*$"},
            ref=object_schema(tag=TEXT, semver=TEXT, digest=TEXT),
            serviceAccountName=TEXT,
            layerSelector=object_schema(mediaType=TEXT, operation={"enum": ["extract", "copy"]}),
        ),
    ),
    "HelmRelease": make_kind_schema(
        "helm.toolkit.fluxcd.io/v2",
        "HelmRelease",
        spec=object_schema(
            "interval",
            interval=DURATION,
            releaseName={"type": "string", "maxLength": 53},
            chartRef=object_schema("kind name", kind={"enum": ["OCIRepository", "HelmChart"]}, name=TEXT),
            valuesFrom={
                "type": "array",
                "items": object_schema("kind name", kind={"enum": ["Secret", "ConfigMap"]}, name=TEXT, optional=TRUTH),
            },
            timeout=DURATION,
            install=object_schema(remediation=object_schema(retries=COUNT, remediateLastFailure=TRUTH)),
            upgrade=object_schema(
                remediation=object_schema(
                    retries=COUNT, remediateLastFailure=TRUTH, strategy={"enum": ["rollback", "uninstall"]}
                )
            ),
            driftDetection=object_schema(mode={"enum": ["enabled", "warn", "disabled"]}),
        ),
    ),
    "Secret": make_kind_schema("v1", "Secret", data={"type": "object", "additionalProperties": TEXT}),
    "Kustomization": object_schema(
        "apiVersion kind resources",
        apiVersion={"const": "kustomize.config.k8s.io/v1beta1"},
        kind={"const": "Kustomization"},
        resources={"type": "array", "items": TEXT},
    ),
}


@pytest.fixture
def manifests() -> dict[str, Any]:
    files = flux.flux_manifests("registry.example/akv", "charts/akv-secret-store", "0.1.0")
    return {path: yaml.safe_load(content) for path, content in files.items()}


def test_flux_manifests_match_the_crds_of_flux(manifests: dict[str, Any]) -> None:
    for found in manifests.values():
        jsonschema.validate(found, KINDS[found["kind"]])


def test_helmrelease_refers_to_the_chart_and_the_settings(manifests: dict[str, Any]) -> None:
    repository, release = manifests["release/ocirepository.yaml"], manifests["release/helmrelease.yaml"]
    assert release["spec"]["chartRef"]["name"] == repository["metadata"]["name"]
    assert repository["spec"]["layerSelector"] == {"mediaType": oci.CHART.layer, "operation": "copy"}
    [source] = release["spec"]["valuesFrom"]
    secret = manifests["settings/secret.yaml"]
    assert source == {"kind": "Secret", "name": secret["metadata"]["name"], "optional": True}
    assert secret["data"] == {"values.yaml": "${values}"}


def test_helmrelease_rolls_back_failed_upgrades_and_corrects_drift(manifests: dict[str, Any]) -> None:
    spec = manifests["release/helmrelease.yaml"]["spec"]
    assert spec["upgrade"]["remediation"] == {"retries": 3, "remediateLastFailure": True, "strategy": "rollback"}
    assert spec["install"]["remediation"]["retries"] == 3
    assert spec["driftDetection"] == {"mode": "enabled"}
    [job] = [manifest.object for manifest in render.render(render.RenderOptions()) if manifest.kind == "Job"]
    assert int(spec["timeout"].removesuffix("m")) * 60 > job["spec"]["activeDeadlineSeconds"]


def test_az_command_names_the_folder_of_the_release(manifests: dict[str, Any]) -> None:
    page = flux.flux_section("registry.example/akv", "flux/akv-secret-store", "0.1.0")
    assert "--url oci://registry.example/akv/flux/akv-secret-store --tag 0.1.0" in page
    assert "path=./release " in page
    assert "release/kustomization.yaml" in manifests
    assert "--docker-server=registry.example " in page
