"""Draw objects of the three kinds. Most of their fields have usual values."""

from functools import partial
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.hostile.texts import JSONS, NAMES, TEXTS, mostly
from tests.support.cluster.harness import TENANT
from tests.support.cluster.namespace import Namespace

KEYS = st.sampled_from(["k", "tls.crt", "tls.key", ".dockerconfigjson", "username"]) | TEXTS
TYPES = mostly(
    "Opaque", st.sampled_from(["kubernetes.io/tls", "kubernetes.io/dockerconfigjson", "helm.sh/release.v1"]) | TEXTS
)
ENTRIES = st.dictionaries(
    st.sampled_from(["owner", "helm.sh/chart", "app.kubernetes.io/managed-by", "team", "argocd.argoproj.io/instance"])
    | TEXTS,
    st.sampled_from(["helm", "x"]) | TEXTS,
    max_size=3,
)
OBJECT_FIELDS = ["objectName", "objectType", "objectVersion", "objectVersionHistory", "objectAlias", "objectFormat"]
OBJECTS = st.one_of(
    st.lists(st.dictionaries(st.sampled_from(OBJECT_FIELDS), NAMES, max_size=4), max_size=4).map(
        lambda items: yaml.safe_dump({"array": [yaml.safe_dump(item) for item in items]})
    ),
    st.integers(1, 4_000).map(lambda depth: "[" * depth),
    st.integers(1, 30_000).map(lambda count: "array: [" + "a," * count + "a]"),
    st.integers(2, 9).map(lambda count: "a: &a [x]\n" + "".join(f"b{n}: &b{n} [*a,*a,*a]\n" for n in range(count))),
    TEXTS,
)
METADATA = st.fixed_dictionaries(
    {"name": st.integers(0, 9).map("drawn-{}".format)},
    optional={
        "annotations": st.dictionaries(
            st.sampled_from(["secret-sync.x-k8s.io/refresh-interval", "x", "helm.sh/hook"]), NAMES, max_size=2
        ),
        "labels": st.dictionaries(st.just("x"), st.sampled_from(["", "y"]), max_size=1),
    },
)
PARAMETERS = ["keyvaultName", "clientID", "tenantID", "cloudName", "usePodIdentity", "useVMManagedIdentity", "objects"]


def draw_manifests(space: Namespace) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Draw an object of one of the three kinds. Most of its fields have usual values."""
    usual = {"clientID": space.client, "tenantID": TENANT, "keyvaultName": space.vault}
    parameters = st.tuples(
        st.dictionaries(st.sampled_from(PARAMETERS), NAMES, max_size=2), mostly("array: []", OBJECTS)
    ).map(lambda drawn: {**usual, "objects": drawn[1], **drawn[0]})
    pairs = st.lists(st.fixed_dictionaries({"sourcePath": NAMES, "targetKey": KEYS}), min_size=1, max_size=4)
    secret_object = st.fixed_dictionaries(
        {"type": TYPES, "data": pairs}, optional={"labels": ENTRIES, "annotations": ENTRIES}
    )
    sync = st.fixed_dictionaries(
        {
            "secretProviderClassName": mostly("drawn-0", NAMES),
            "serviceAccountName": mostly(space.account, NAMES),
            "secretObject": secret_object,
        },
        optional={"forceSynchronization": TEXTS, "secretSyncControllerName": st.just("")},
    )
    entry = st.fixed_dictionaries(
        {"secretInAKV": mostly("a", NAMES)},
        optional={
            "kubernetesSecretName": NAMES,
            "kubernetesSecretType": TYPES,
            "versionHistory": st.integers(-1, 600),
            "annotations": ENTRIES,
            "labels": ENTRIES,
        },
    )
    akv = st.fixed_dictionaries(
        {
            "keyvaultName": mostly(space.vault, NAMES),
            "clientID": st.just(space.client),
            "tenantID": st.just(TENANT),
            "serviceAccountName": st.just(space.account),
            "objects": st.lists(entry, min_size=1, max_size=3),
        }
    )
    specs = {
        "secretproviderclass": ("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass",
                                st.builds(lambda found: {"provider": "azure", "parameters": found}, parameters)),
        "secretsync": ("secret-sync.x-k8s.io/v1alpha1", "SecretSync", sync),
        "akvsync": ("secret-sync.x-k8s.io/v1alpha1", "AKVSync", akv),
    }  # fmt: skip
    drawn = [
        st.fixed_dictionaries(
            {
                "apiVersion": st.just(version),
                "kind": st.just(name),
                "metadata": METADATA,
                "spec": st.one_of(spec, spec, JSONS),
            }
        ).map(partial(_with_kind, kind))
        for kind, (version, name, spec) in specs.items()
    ]
    return st.one_of(drawn)


def _with_kind(kind: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return kind, body
