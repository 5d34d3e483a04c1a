"""Test the Job of the chart that upgrades the CRDs."""

import pytest
import yaml

from tests.chart.rendering import FULL_NAME, get_object, list_kinds, render
from tools.cli.common import helm


def test_upgrade_job_has_the_crds_of_the_chart() -> None:
    manifests = render()
    job = get_object(manifests, "Job")
    config = get_object(manifests, "ConfigMap", job["metadata"]["name"])
    files = {path.name: path.read_text() for path in (helm.CHART / "crds").glob("*.yaml")}
    assert {name: yaml.safe_load(data) for name, data in config["data"].items()} == {
        name: yaml.safe_load(data) for name, data in files.items()
    }
    [main] = job["spec"]["template"]["spec"]["containers"]
    assert main["args"] == ["upgrade-crds", main["volumeMounts"][0]["mountPath"]]
    hooks = [m for m in manifests if "helm.sh/hook" in m["metadata"].get("annotations", {})]
    assert list_kinds(hooks) == {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "Job",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    weights = {m["kind"]: int(m["metadata"]["annotations"]["helm.sh/hook-weight"]) for m in hooks}
    assert weights["Job"] == max(weights.values()) > weights["ClusterRoleBinding"] > weights["ClusterRole"]
    assert weights["Job"] > weights["ValidatingAdmissionPolicyBinding"] > weights["ValidatingAdmissionPolicy"]
    # CRDs are neither hooks nor templates.
    assert "CustomResourceDefinition" not in list_kinds(manifests)


def test_successful_upgrade_job_remains_without_its_rights() -> None:
    manifests = render()
    job = get_object(manifests, "Job")
    hooks = [m for m in manifests if "helm.sh/hook" in m["metadata"].get("annotations", {})]
    kept = [m for m in hooks if "hook-succeeded" not in m["metadata"]["annotations"]["helm.sh/hook-delete-policy"]]
    assert kept == [job]
    # This annotation crashes Flux's helm-controller with a memory error (helm-controller issue 1562).
    assert not [m for m in hooks if "helm.sh/hook-output-log-policy" in m["metadata"]["annotations"]]
    assert job["spec"]["ttlSecondsAfterFinished"] == 86400
    # helm waits for 5 minutes, and its own timeout would not name the Job.
    assert job["spec"]["activeDeadlineSeconds"] < 300


def test_uninstall_deletes_objects_of_a_failed_upgrade_job() -> None:
    def list_events(**given: str) -> dict[str, str]:
        found = [m for m in render(given=given) if "helm.sh/hook" in m["metadata"].get("annotations", {})]
        return {m["kind"]: m["metadata"]["annotations"]["helm.sh/hook"] for m in found}

    found = list_events()
    # Otherwise the uninstall would run the Job.
    assert found.pop("Job") == "pre-install,pre-upgrade"
    assert set(found.values()) == {"pre-install,pre-upgrade,post-delete"}
    # The uninstall would fail if the namespace of a hook did not exist.
    assert set(list_events(namespaceOverride="other").values()) == {"pre-install,pre-upgrade"}


def test_upgrade_job_may_get_and_patch_only_its_crds() -> None:
    role = get_object(render(), "ClusterRole", f"crds.{FULL_NAME}.{helm.RELEASE}")
    [rule] = role["rules"]
    assert sorted(rule["resourceNames"]) == [path.stem for path in sorted((helm.CHART / "crds").glob("*.yaml"))]
    assert rule["verbs"] == ["get", "patch"]


@pytest.mark.parametrize("off", ["false", "False"])
def test_upgrade_job_can_be_disabled(off: str) -> None:
    manifests = render("--set-string", f"crds.upgrade={off}")
    assert not [m for m in manifests if "helm.sh/hook" in m["metadata"].get("annotations", {})]
