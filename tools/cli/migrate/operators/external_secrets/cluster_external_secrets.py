"""Expand a ClusterExternalSecret into ExternalSecrets: one in each namespace that it names or selects. Pure."""

from collections.abc import Iterator

import msgspec

from tools.cli.common import kube_names
from tools.cli.migrate.objects import Manifest, qualified_name
from tools.cli.migrate.operators import foreign_manifests
from tools.cli.migrate.operators.external_secrets.kinds import ClusterExternalSecret, ExternalSecret, LabelSelector
from tools.cli.migrate.operators.result import ConversionResult

# The API server gives this label to each namespace, with its name. Manifests in files do not have it.
_NAME_LABEL = "kubernetes.io/metadata.name"


def expand(
    manifest: Manifest, cluster: ClusterExternalSecret, objects: list[Manifest], result: ConversionResult
) -> Iterator[tuple[Manifest, ExternalSecret]]:
    """Yield the ExternalSecrets of a ClusterExternalSecret, one for each known namespace."""
    spec, about = cluster.spec, qualified_name(manifest)
    selectors = [*spec.namespace_selectors, *([spec.namespace_selector] if spec.namespace_selector else [])]
    names = {*spec.namespaces, *cluster.status.provisioned_namespaces}
    listed = {each["metadata"]["name"]: _labels_of(each) for each in objects if each["kind"] == "Namespace"}
    for selector in selectors:
        known: dict[str, Manifest] = {name: {} for name in _names_in(selector)} | listed
        names |= {name for name, labels in known.items() if _selector_matches(selector, {**labels, _NAME_LABEL: name})}
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


def _labels_of(manifest: Manifest) -> Manifest:
    labels = manifest["metadata"].get("labels")
    return labels if isinstance(labels, dict) else {}


def _names_in(selector: LabelSelector) -> set[str]:
    """Return the namespaces that a selector names, if it has no condition on labels that only their objects have."""
    names = {text for key, text in selector.match_labels.items() if key == _NAME_LABEL}
    for expression in selector.match_expressions:
        values = expression.get("values")
        if expression.get("operator") == "In" and isinstance(values, list):
            names.update(text for text in values if isinstance(text, str))
    keys = {*selector.match_labels, *(str(expression.get("key")) for expression in selector.match_expressions)}
    return names if keys == {_NAME_LABEL} else set()


def _selector_matches(selector: LabelSelector, labels: Manifest) -> bool:
    """Return whether a label selector selects a namespace. An unknown operator selects no namespace."""
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
