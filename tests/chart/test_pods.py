"""Test the pods: security contexts, probes, labels and images, and their replacement by an update."""

import pytest

from controller.config.settings import Settings
from tests.chart.rendering import get_container, get_object, render
from tools.cli.common import helm


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_fit_the_restricted_level(kind: str) -> None:
    pod = get_object(render(), kind)["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for each in pod["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_only_pods_that_need_a_token_mount_one() -> None:
    manifests = render()
    for account in (m for m in manifests if m["kind"] == "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for kind in ("Deployment", "Job"):
        assert get_object(manifests, kind)["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


def test_probes_use_their_own_port() -> None:
    main = get_container(render())
    assert main["ports"] == [
        {"name": "http", "containerPort": Settings().listen_port},
        {"name": "health", "containerPort": Settings().health_port},
    ]
    assert main["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert main["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


def test_pod_labels_cannot_break_the_selector() -> None:
    deployment = get_object(
        render("--set", r"podLabels.app\.kubernetes\.io/name=other,podLabels.tier=x"), "Deployment"
    )["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert labels["tier"] == "x"
    assert deployment["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("args", "image"),
    [
        ([], "ghcr.io/akv-secret-store/akv-secret-store:0.1.0"),
        (["--set", "image.tag=2"], None),
        (["--set-string", "image.registry=r.example:5000/,image.repository=a/b,image.tag=2"], "r.example:5000/a/b:2"),
        (
            ["--set", f"image.tag=x,image.digest=sha256:{'a' * 64}"],
            f"ghcr.io/akv-secret-store/akv-secret-store@sha256:{'a' * 64}",
        ),
    ],
)
def test_image_reference_follows_its_values(args: list[str], image: str | None) -> None:
    if image is None:
        with pytest.raises(helm.BadValues, match=r"image\.tag: .*string"):
            render(*args)
        return
    manifests = render(*args)
    assert get_container(manifests)["image"] == image
    assert get_object(manifests, "Job")["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_update_starts_the_new_pod_before_the_old_one_ends() -> None:
    spec = get_object(render("--set-string", "replicaCount=2"), "Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
