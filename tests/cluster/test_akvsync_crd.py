"""Test the AKVSync CRD on a real API server: it accepts valid objects and explains why it refuses invalid ones."""

import json
import subprocess
from typing import Any

import msgspec
import pytest

from controller.api.akvsync import MAX_MAPPED, MAX_OBJECTS, SECRET_TYPES
from tests.support.akv_syncs import EXAMPLE
from tests.support.cluster.harness import InstalledRelease

MAPPED = "kubernetesSecretName: m, mapping"
TLS = "kubernetesSecretType: kubernetes.io/tls"
ONE_OF = "an object is exactly one of secretInAKV, certInAKV, select, or kubernetesSecretName with mapping"
SAME_NAME = "two objects make Secrets of the same name: give one another kubernetesSecretName"
RESERVED = "that start with secrets-store.sync.x-k8s.io are reserved for the controller"


def create_dry_run(installed: InstalledRelease, objects: str | list[dict[str, Any]], /, **spec: Any) -> tuple[int, str]:
    """Return the exit code and the output of a server-side dry run."""
    plane = installed.plane
    given = {"keyvaultName": "shop-vault", "clientID": "client", "tenantID": "tenant", "serviceAccountName": "shop"}
    made = {
        "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
        "kind": "AKVSync",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {**given, "objects": msgspec.yaml.decode(objects) if isinstance(objects, str) else objects, **spec},
    }
    command = [str(plane.kubectl_path), "--kubeconfig", str(plane.kubeconfig), "create", "--dry-run=server", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(made), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "objects",
    [
        pytest.param(EXAMPLE, id="example of the reference"),
        pytest.param([{"secretInAKV": "A-1"}, {"secretInAKV": "b"}], id="capitals"),
        pytest.param("[{secretInAKV: a-, kubernetesSecretName: a.b}]", id="kubernetesSecretName"),
        pytest.param(f"[{{certInAKV: e, {TLS}, versionHistory: 2}}, {{secretInAKV: e}}]", id="e-v0 and e differ"),
        pytest.param("[{secretInAKV: web}, {certInAKV: web, kubernetesSecretName: tls}]", id="same object name twice"),
        pytest.param(
            [
                {
                    "kubernetesSecretName": f"{number}{'n' * 248}",
                    "mapping": [{"dataKey": f"k{key}", "secretInAKV": "s" * 127} for key in range(MAX_MAPPED)],
                    "labels": {"a" * 253 + "/" + "b" * 63: "v" * 63},
                }
                for number in range(MAX_OBJECTS)
            ],
            id="all maximums",
        ),
        pytest.param(
            [
                {
                    "certInAKV": f"{number}{'C' * 124}",
                    "kubernetesSecretName": f"{number}{'n' * 248}",
                    "kubernetesSecretType": "kubernetes.io/tls",
                    "versionHistory": 2,
                }
                for number in range(MAX_OBJECTS)
            ],
            id="names that take longest to compare",
        ),
        *(
            pytest.param([{"kubernetesSecretName": "m", "kubernetesSecretType": kind, "mapping": [
                {"dataKey": "username", "secretInAKV": "s"}
            ]}], id=kind)
            for kind in SECRET_TYPES
        ),
    ],
)  # fmt: skip
def test_valid_objects_are_accepted(objects: str | list[dict[str, Any]], installed: InstalledRelease) -> None:
    assert create_dry_run(installed, objects) == (0, "akvsync.secret-sync.x-k8s.io/shop created (server dry run)\n")


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("[]", "spec.objects in body should have at least 1 items"),
        ("[{}]", ONE_OF),
        ("[{kubernetesSecretName: a}]", ONE_OF),
        ("[{secretInAKV: a, certInAKV: a}]", ONE_OF),
        ("[{select: {}, secretInAKV: a}]", ONE_OF),
        ("[{select: {}, versionHistory: 2}]", "versionHistory does not go with select"),
        ("[{secretInAKV: a, stripPrefix: a}]", "stripPrefix and whenGone go with select alone"),
        ("[{secretInAKV: a, whenGone: Keep}]", "stripPrefix and whenGone go with select alone"),
        ("[{select: {namePattern: 'a[b]'}}]", "a pattern of names in Key Vault: letters, digits and -, with * and ?"),
        ("[{select: {namePrefix: ''}}]", "should be at least 1 chars long"),
        ("[{select: {types: [key]}}]", 'Unsupported value: "key"'),
        (
            f"[{{select: {{}}, kubernetesSecretName: a, {TLS}}}]",
            "select with kubernetesSecretName makes a Secret of type",
        ),
        (
            [{"select": {"namePrefix": f"a{number}"}} for number in range(9)],
            "at most 8 objects of an AKVSync have select",
        ),
        (f"[{{secretInAKV: a, {MAPPED}: [{{dataKey: k, secretInAKV: s}}]}}]", ONE_OF),
        ("[{mapping: [{dataKey: k, secretInAKV: s}]}]", "mapping needs kubernetesSecretName, the name of the Secret"),
        (f"[{{{MAPPED}: [{{dataKey: k, secretInAKV: s}}], versionHistory: 2}}]", "versionHistory does not go with"),
        (f"[{{{MAPPED}: [{{dataKey: k, secretInAKV: s, certInAKV: s}}]}}]", "a mapping's entry names exactly one of"),
        (f"[{{{MAPPED}: [{{dataKey: k}}]}}]", "a mapping's entry names exactly one of secretInAKV and certInAKV"),
        (f"[{{{MAPPED}: [{{secretInAKV: s}}]}}]", "mapping[0].dataKey: Required value"),
        (
            f"[{{{MAPPED}: [{{dataKey: k, secretInAKV: s}}, {{dataKey: k, secretInAKV: t}}]}}]",
            'mapping[1]: Duplicate value: {"dataKey":"k"}',
        ),
        (f"[{{{MAPPED}: [{{dataKey: k k, secretInAKV: s}}]}}]", "a key of a Secret holds letters, digits, - . _ and"),
        (f"[{{{MAPPED}: [{{dataKey: k, secretInAKV: s, version: -1}}]}}]", "should be greater than or equal to 0"),
        ("[{secretInAKV: a, versionHistory: 0}]", "should be greater than or equal to 1"),
        ("[{secretInAKV: a, versionHistory: 501}]", "should be less than or equal to 500"),
        ("[{secretInAKV: API}, {secretInAKV: api}]", SAME_NAME),
        ("[{secretInAKV: a, kubernetesSecretName: b}, {certInAKV: b}]", SAME_NAME),
        (f"[{{certInAKV: e, {TLS}, versionHistory: 2}}, {{secretInAKV: e-v0}}]", SAME_NAME),
        ("[{secretInAKV: a_b}]", "an object's name in Key Vault: letters, digits and -"),
        ("[{secretInAKV: a-}]", "this name makes no Secret's name: set kubernetesSecretName"),
        ("[{secretInAKV: a, kubernetesSecretName: A}]", "an object's name: small letters, digits, - and ."),
        ("[{secretInAKV: a, kubernetesSecretType: other}]", 'kubernetesSecretType: Unsupported value: "other"'),
        (
            "[{certInAKV: a, kubernetesSecretType: kubernetes.io/basic-auth}]",
            "a certificate becomes a Secret of type Opaque or kubernetes.io/tls",
        ),
        ("[{certInAKV: a, expand: true}]", "expand goes with secretInAKV and type Opaque"),
        ("[{secretInAKV: a, expand: true, versionHistory: 2}]", "expand goes with secretInAKV and type Opaque"),
        (
            "[{secretInAKV: a, expand: true, kubernetesSecretType: kubernetes.io/ssh-auth}]",
            "expand goes with secretInAKV and type Opaque",
        ),
        ("[{certInAKV: a, includeCA: true}]", "includeCA goes with certInAKV"),
        ("[{secretInAKV: a, includeCA: true}]", "includeCA goes with certInAKV"),
        (
            "[{kubernetesSecretName: b, mapping: [{dataKey: k, certInAKV: a, property: x}]}]",
            "property and encoding go with secretInAKV",
        ),
        (
            "[{kubernetesSecretName: b, mapping: [{dataKey: k, secretInAKV: a, encoding: rot13}]}]",
            'Unsupported value: "rot13"',
        ),
        *(
            (
                f"[{{kubernetesSecretName: b, mapping: [{{dataKey: k, secretInAKV: a, property: '{path}'}}]}}]",
                "names with dots between them",
            )
            for path in ("x.", "a..b", "a[", "a[x]", "a]b")
        ),
        (
            "[{certInAKV: a, kubernetesSecretType: kubernetes.io/ssh-auth}]",
            "a certificate becomes a Secret of type Opaque or kubernetes.io/tls",
        ),
        ("[{secretInAKV: a, labels: {secrets-store.sync.x-k8s.io: ''}}]", f"keys of labels {RESERVED}"),
        ("[{secretInAKV: a, annotations: {secrets-store.sync.x-k8s.io/a: ''}}]", f"keys of annotations {RESERVED}"),
        ([{"secretInAKV": "a", "labels": {"a" * 318: ""}}], "a key of labels has more than 317 characters"),
        ([{"secretInAKV": "a", "labels": {"a": "v" * 64}}], "labels.a: Too long"),
        (
            [{"secretInAKV": f"a{number}"} for number in range(MAX_OBJECTS + 1)],
            f"must have at most {MAX_OBJECTS} items",
        ),
    ],
)
def test_invalid_akvsync_is_refused_with_a_message(
    objects: str | list[dict[str, Any]], message: str, installed: InstalledRelease
) -> None:
    code, out = create_dry_run(installed, objects)
    assert code == 1
    assert message in out


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"keyvaultName": "a.evil.example"}, "a Key Vault's name has 3 to 24 letters, digits and single -"),
        ({"keyvaultName": "ab"}, "keyvaultName in body should be at least 3 chars long"),
        ({"clientID": "a/b"}, "a client id holds letters, digits and -"),
        ({"tenantID": "a/b"}, "a tenant's id or domain holds letters, digits, . and -"),
        ({"serviceAccountName": "Shop"}, "an object's name: small letters"),
        *(({name: None}, f"spec.{name}: Required value") for name in ("keyvaultName", "clientID", "tenantID")),
        ({"serviceAccountName": None}, "spec.serviceAccountName: Required value"),
        ({"objects": None}, "spec.objects: Required value"),
    ],
)
def test_invalid_field_of_the_spec_is_refused_with_a_message(
    spec: dict[str, Any], message: str, installed: InstalledRelease
) -> None:
    code, out = create_dry_run(installed, "[{secretInAKV: a}]", **spec)
    assert code == 1
    assert message in out
