"""Expand a ClusterExternalSecret into ExternalSecrets: one in each namespace that it names or selects. Pure."""

from collections.abc import Iterator

import msgspec

from tools.cli.common import kube_names
from tools.cli.migrate.objects import Manifest, qualified_name
from tools.cli.migrate.operators import foreign_manifests
from tools.cli.migrate.operators.external_secrets_kinds import ClusterExternalSecret, ExternalSecret, LabelSelector
from tools.cli.migrate.operators.result import ConversionResult


def expand(
    manifest: Manifest, cluster: ClusterExternalSecret, objects: list[Manifest], result: ConversionResult
) -> Iterator[tuple[Manifest, ExternalSecret]]:
    """Yield the ExternalSecrets of a ClusterExternalSecret, one for each known namespace."""
    spec, about = cluster.spec, qualified_name(manifest)
    selectors = [*spec.namespace_selectors, *([spec.namespace_selector] if spec.namespace_selector else [])]
    names = {*spec.namespaces, *cluster.status.provisioned_namespaces}
    for each in objects:
        if each["kind"] == "Namespace" and any(_selector_matches(selector, each) for selector in selectors):
            names.add(each["metadata"]["name"])
    if selectors:
        result.note(
            about,
            "it selects namespaces by label: each namespace that is created later needs an AKVSync. Before you delete"
            " it, compare its status.provisionedNamespaces with this report: in other namespaces, its deletion deletes"
            " the Secrets",
        )
    wanted = sorted(name for name in names if kube_names.is_namespace(name))
    if not wanted:
        result.note(
            about, "is not carried over: its namespaces are not known; add the Namespaces' manifests, or use --cluster"
        )
    metadata = msgspec.to_builtins(spec.external_secret_metadata)
    name = spec.external_secret_name or manifest["metadata"]["name"]
    if not kube_names.is_name(name):
        result.note(about, f"is not carried over: externalSecretName {name!r} is not an object's name")
        return
    for where in wanted:
        source = {"kind": "ExternalSecret", "metadata": {"name": name, "namespace": where}}
        external = ExternalSecret(
            metadata=foreign_manifests.read(metadata, type(spec.external_secret_metadata)),
            spec=spec.external_secret_spec,
        )
        yield source, external


def _selector_matches(selector: LabelSelector, manifest: Manifest) -> bool:
    """Return whether a label selector selects a namespace. An unknown operator selects no namespace."""
    labels = manifest["metadata"].get("labels")
    labels = labels if isinstance(labels, dict) else {}
    for expression in selector.match_expressions:
        key, values = str(expression.get("key")), expression.get("values")
        values = values if isinstance(values, list) else []
        match expression.get("operator"):
            case "In":
                fits = labels.get(key) in values
            case "NotIn":
                fits = labels.get(key) not in values
            case "Exists":
                fits = key in labels
            case "DoesNotExist":
                fits = key not in labels
            case _:
                fits = False
        if not fits:
            return False
    return all(labels.get(key) == value for key, value in selector.match_labels.items())
