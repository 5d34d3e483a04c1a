"""Convert the settings of an SSE installation into values of this chart. Pure.

They come from the Secret in which helm stores a release, from `helm get values`, or from `az k8s-extension show`.
Source: Helm documentation, "Storage backends"; SSE reference, "Configuration settings"; the Secrets Store Sync
Controller's chart, "Configuration and Parameters".
"""

import base64
import binascii
import copy
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from controller.config.settings import TOKEN_AUDIENCE
from tools.cli.common import json_depth, printable

MAX_RELEASE_BYTES = 16 * 2**20
"""Size of an unpacked release. A Secret contains at most 1 MiB of its packed form."""
MAX_DEPTH = 100
MAX_STEPS = 20
"""Steps of a name that is a path. Settings have at most six."""
_AS_IT_IS = "the same here"
# A step of a path in the syntax of `helm --set`: a word, in which a backslash escapes a character, or an index.
_STEP = re.compile(r"((?:\\.|[^.\[\]\\])+)|\[([0-9]{1,3})\]")
_ESCAPED = re.compile(r"\\(.)")
# Settings that this chart has with the same name and meaning, by their dotted name.
SAME: Mapping[str, str] = {
    "rotationPollIntervalInSeconds": _AS_IT_IS,
    "enablePartialSecretSync": _AS_IT_IS,
    "jitterSeconds": _AS_IT_IS,
    "controllerName": "the same here; this controller serves SecretSyncs that name it, and those that name none",
    "validatingAdmissionPolicies.applyPolicies": _AS_IT_IS,
    "validatingAdmissionPolicies.allowedSecretTypes": _AS_IT_IS,
    "resources": "the same here; it needs about 100 MiB of memory",
    "nodeSelector": _AS_IT_IS,
    "tolerations": _AS_IT_IS,
    "podAnnotations": _AS_IT_IS,
    "podLabels": _AS_IT_IS,
    "imagePullSecrets": _AS_IT_IS,
}
# Settings that this chart does not need, with the reason.
UNNEEDED: Mapping[str, str] = {
    "kubectl": "not needed: the CRD Job runs the controller's image",
    "secrets-store-csi-driver": "not needed: the CSI driver is not used",
    "image": "not carried over: it names SSE's image; this chart's `image` names this controller's",
    "providerContainer": "not needed: the controller reads Key Vault itself",
    "tokenRequestAudience": f"not needed: the audience is always {TOKEN_AUDIENCE}",
    "logVerbosity": "not carried over: this chart has `logLevel` (debug, info, warning, error)",
    "securityContext": "not carried over: this chart's own is stricter",
    "validatingAdmissionPolicies.deniedSecretTypes": "not needed: only allowedSecretTypes are written",
    "validatingAdmissionPolicies.kubernetesReleaseVersion": "not needed: the chart asks the cluster",
    "metricsPort": "not carried over: this chart's metrics have their own port",
    "nameOverride": "not carried over: names of this chart's objects are its own",
    "fullnameOverride": "not carried over: names of this chart's objects are its own",
    "namespace": "not needed: the release's namespace counts",
    "Azure": "Arc passes it by itself",
    "global": "not carried over: it may name SSE's registry",
}


class BadReleaseError(ValueError):
    """The text is not a helm release, or not its values. The message has the reason."""


class SseSetting(msgspec.Struct, frozen=True):
    """One setting of SSE: its dotted name, an explanation, and its value if this chart has the setting."""

    name: str
    text: str
    value: Any = None
    is_carried: bool = False

    def __str__(self) -> str:
        shown = f"={json.dumps(self.value)}" if self.is_carried else ""
        return printable.line(f"setting {self.name}{shown}: {self.text}")


class _ChartMetadata(msgspec.Struct):
    name: str = ""
    version: str = ""


class _ChartShape(msgspec.Struct):
    metadata: _ChartMetadata = msgspec.field(default_factory=_ChartMetadata)


class HelmRelease(msgspec.Struct):
    """The fields of a helm release that are read: its chart, and the values that its user gave."""

    name: str = ""
    namespace: str = ""
    chart: _ChartShape = msgspec.field(default_factory=_ChartShape)
    config: dict[str, Any] | None = None


def read_release(packed: str) -> HelmRelease:
    """Read the field `release` of the Secret of a helm release, base64. Raise `BadReleaseError`."""
    try:
        inner = base64.b64decode(base64.b64decode(packed, validate=True), validate=True)
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        text = unpacker.decompress(inner, MAX_RELEASE_BYTES)
    except (binascii.Error, zlib.error, ValueError):
        raise BadReleaseError("it is not a release that helm 3 or later has packed") from None
    if unpacker.unconsumed_tail:
        raise BadReleaseError(f"it has more than {MAX_RELEASE_BYTES // 2**20} MiB")
    # Only the values of a release can be nested deeply.
    if json_depth.is_deeper_than(text, MAX_DEPTH):
        raise BadReleaseError(f"its values are nested in more than {MAX_DEPTH} levels")
    try:
        return msgspec.json.decode(text, type=HelmRelease)
    except (ValueError, RecursionError):
        raise BadReleaseError("it is not a release that helm 3 or later has packed") from None


def values_of(document: Any) -> Mapping[str, Any]:
    """Return the values in a document of `helm get values` or `az k8s-extension show`. Raise `BadReleaseError`."""
    if isinstance(document, dict) and isinstance(document.get("properties"), dict):
        document = document["properties"]  # the form of Azure's REST API
    if isinstance(document, dict) and "configurationSettings" in document:
        document = document["configurationSettings"] or {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise BadReleaseError("expected values by name, from `helm get values -o yaml` or `az k8s-extension show`")
    return document


def list_settings(values: Mapping[str, Any]) -> list[SseSetting]:
    """Return every given setting, sorted by name. Leave out values of unknown settings, which may be secret."""
    return sorted(_read_settings(values), key=lambda setting: setting.name)


def _read_settings(values: Mapping[str, Any]) -> Iterator[SseSetting]:
    for name, value in _flatten_values(_nest_values(values)):
        if text := SAME.get(name):
            yield SseSetting(name, text, value, is_carried=True)
        elif reason := next((UNNEEDED[prefix] for prefix in _name_prefixes(name) if prefix in UNNEEDED), ""):
            yield SseSetting(name, reason)
        else:
            yield SseSetting(name, "this chart has no such setting; see the table of values in chart/README.md")


def _nest_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values whose names are paths, as Arc and `helm --set` write them, in groups and lists.

    Such names are `nodeSelector.disk` and `allowedSecretTypes[0]`; a backslash makes the next character ordinary.
    A name that contradicts another one stays as it is.
    """
    nested: dict[Any, Any] = {}
    for name, value in copy.deepcopy(dict(values)).items():
        steps = [int(index) if index else _ESCAPED.sub(r"\1", word) for word, index in _STEP.findall(name)]
        if not 0 < len(steps) <= MAX_STEPS:
            steps = [name]
        place: Any = nested
        for group in steps[:-1]:
            place = place.setdefault(group, {}) if isinstance(place, dict) else None
        if isinstance(place, dict) and steps[-1] not in place:
            place[steps[-1]] = value
        else:
            nested[name] = value
    return {str(name): _as_lists(value) for name, value in nested.items()}


def _as_lists(value: Any) -> Any:
    """Return groups whose names are numbers as lists."""
    if not isinstance(value, dict):
        return value
    if value and all(isinstance(name, int) for name in value):
        return [_as_lists(value[index]) for index in sorted(value)]
    return {str(name): _as_lists(inner) for name, inner in value.items()}


def _flatten_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its dotted name."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if value is None:
            continue  # for helm, null removes a default
        if isinstance(value, Mapping) and name not in SAME:
            yield from _flatten_values(value, f"{name}.")
        else:
            yield name, value


def _name_prefixes(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[:count]) for count in range(len(words), 0, -1)]


def chart_values(found: list[SseSetting]) -> dict[str, Any]:
    """Return the carried settings as values of this chart."""
    values: dict[str, Any] = {}
    for setting in found:
        if setting.is_carried:
            *groups, last = setting.name.split(".")
            place = values
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = setting.value
    return values


def install_command(found: list[SseSetting], release: str) -> str:
    """Return the helm command that installs this chart with the carried settings."""
    flags = [
        word
        for each in found
        if each.is_carried
        for word in ("--set-json", f"{each.name}={json.dumps(each.value, sort_keys=True)}")
    ]
    return printable.command(
        *("helm", "install", release, "./chart", "--namespace", release, "--create-namespace"), *flags
    )
