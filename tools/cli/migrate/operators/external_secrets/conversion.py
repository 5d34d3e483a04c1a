"""Convert ExternalSecrets of provider azurekv into AKVSyncs, or SecretProviderClasses and SecretSyncs. Pure.

A Secret is taken over only with all of its keys, each with the same value: the Pods must not lose a key. If some keys
have no counterpart, the others become a Secret beside it. The notes have the reason and the best alternative for each.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import msgspec

from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, TLS_TYPE
from controller.domain import secret_limits
from tools.cli.migrate import sync_rules
from tools.cli.migrate.objects import Manifest, namespace_of, qualified_name
from tools.cli.migrate.operators import foreign_manifests, new_names, secret_manifests, wanted_secrets
from tools.cli.migrate.operators.external_secrets import cluster_external_secrets, data, template
from tools.cli.migrate.operators.external_secrets.kinds import (
    GENERATORS,
    GROUP,
    VERSIONS,
    ClusterExternalSecret,
    ExternalSecret,
)
from tools.cli.migrate.operators.external_secrets.stores import StoreIndex
from tools.cli.migrate.operators.result import ConversionOptions, ConversionResult, SecretTakeover, SourceObject
from tools.cli.migrate.operators.wanted_secrets import InexpressibleSecret, SecretEntry, VaultIdentity, WantedSecret

T = TypeVar("T", ExternalSecret, ClusterExternalSecret)
_RETAIN = '{"spec":{"target":{"deletionPolicy":"Retain"}}}'
_RETAIN_ALL = '{"spec":{"externalSecretSpec":{"target":{"deletionPolicy":"Retain"}}}}'
_KEY_FORM = "key {!r}: the private key has the same numbers, and perhaps another form of PEM"
# A duration of Go that is zero: 0, 0s, 0h0m0s.
_NO_INTERVAL = re.compile(r"0|(0(h|m|s|ms|us|ns))+")
_KEEPS = "this controller keeps the last value when an object is deleted from the vault"
# Objects of the operator that have no counterpart, and the alternative.
_PUSHED = "this controller only reads the vault: write into it with az, Terraform or the program that makes the value"
_EXPLAINED = {"PushSecret": _PUSHED, "ClusterPushSecret": _PUSHED}


def checked_kinds() -> tuple[str, ...]:
    """Return the kinds whose objects must have valid names for the conversion."""
    return (
        *("ExternalSecret", "ClusterExternalSecret", "SecretStore", "ClusterSecretStore", *_EXPLAINED),
        *("ServiceAccount", "Namespace", SecretProviderClass.kind, AKVSync.kind),
    )


def convert_objects(objects: Iterable[Manifest], options: ConversionOptions) -> ConversionResult:
    """Convert every ExternalSecret among `objects`.

    The deletion of a ClusterExternalSecret deletes all of its ExternalSecrets. If one of them does not carry over, none
    of them does. Only a conversion shows which ones do, so a second one leaves those that must stay.
    """
    objects = sorted(objects, key=qualified_name)
    result, parents = _convert(objects, options, {})
    moved = {each.parent for each in result.takeovers}
    blockers = {
        parent: child
        for child in result.remaining
        if (parent := parents.get((child.namespace, child.name))) and parent in moved
    }
    return _convert(objects, options, blockers)[0] if blockers else result


def _convert(
    objects: list[Manifest], options: ConversionOptions, blockers: Mapping[SourceObject, SourceObject]
) -> tuple[ConversionResult, Mapping[tuple[str, str], SourceObject]]:
    """Convert every ExternalSecret. Also return the ClusterExternalSecret of each one, by namespace and name.

    `blockers` are the ClusterExternalSecrets that must stay, each with an ExternalSecret that does not carry over.
    """
    parents: dict[tuple[str, str], SourceObject] = {}
    result = ConversionResult()
    ours = [each for each in objects if _api_group(each) == GROUP and each["kind"] in checked_kinds()]
    stores = StoreIndex([each for each in objects if each in ours or each["kind"] == "ServiceAccount"], options, result)
    stores.describe()
    taken = new_names.find_taken_names(objects)
    made: dict[tuple[str, str], str] = {}
    externals = list(_external_secrets(objects, result, parents))
    names = {(namespace_of(source), _secret_name(source, external)) for source, external in externals}
    for source, external in externals:
        about = qualified_name(source)
        origin = SourceObject("externalsecret", namespace_of(source), source["metadata"]["name"])
        parent = parents.get((origin.namespace, origin.name))
        try:
            secret = _convert_secret(external, source, stores, partial(result.note, about))
            if first := made.get((secret.namespace, secret.name)):
                raise InexpressibleSecret(f"{first} writes the same Secret {secret.name}: merge the two by hand")
            if parent and (child := blockers.get(parent)) and not secret.lost:
                raise InexpressibleSecret(
                    f"ClusterExternalSecret {parent.name} would be deleted, and with it the Secret of ExternalSecret"
                    f" {child.namespace}/{child.name}, which is not carried over: give that one another source first"
                )
            given = secret
            if options.beside or secret.lost:
                given = msgspec.structs.replace(secret, name=new_names.name_beside(secret, names))
            name = new_names.free_name(source["metadata"]["name"], given, taken)
            result.manifests.extend(secret_manifests.build_manifests(given, name, classes=options.classes))
        except InexpressibleSecret as problem:
            result.note(about, f"is not carried over: {problem}")
            result.remaining.append(origin)
            continue
        made[secret.namespace, secret.name] = about
        names.add((given.namespace, given.name))
        result.add_roles(secret)
        takeover = _build_takeover(external, origin, parent, secret, given.name)
        if secret.lost:
            result.note_lost(about, given.name, secret)
            result.remaining.append(origin)
            result.partial.append(takeover)
        else:
            result.takeovers.append(takeover)
    return result, parents


def _build_takeover(
    external: ExternalSecret, origin: SourceObject, parent: SourceObject | None, secret: WantedSecret, new_name: str
) -> SecretTakeover:
    retain = _RETAIN_ALL if parent else _RETAIN
    return SecretTakeover(
        secret.namespace,
        secret.name,
        new_name,
        (origin,),
        parent=parent,
        prepare=retain if external.spec.target.deletion_policy == "Delete" else "",
    )


def _secret_name(source: Manifest, external: ExternalSecret) -> str:
    return external.spec.target.name or str(source["metadata"]["name"])


def _api_group(manifest: Manifest) -> str:
    return str(manifest.get("apiVersion", "")).rpartition("/")[0]


def _external_secrets(
    objects: list[Manifest], result: ConversionResult, parents: dict[tuple[str, str], SourceObject]
) -> Iterator[tuple[Manifest, ExternalSecret]]:
    """Yield every ExternalSecret of the input, and those of a ClusterExternalSecret that the input lacks.

    Add the ClusterExternalSecret of each ExternalSecret to `parents`, by namespace and name.
    """
    seen: set[tuple[str, str]] = set()
    for each in objects:
        kind, group, about = each["kind"], _api_group(each), qualified_name(each)
        if group not in (GROUP, GENERATORS):
            result.untouched.append(about)
        elif group == GENERATORS:
            result.note(about, data.GENERATOR)
        elif kind in _EXPLAINED:
            result.note(about, _EXPLAINED[kind])
        elif kind not in checked_kinds():
            result.note(about, f"the kind {kind} is not known: it stays with External Secrets")
        elif (version := str(each["apiVersion"]).rpartition("/")[2]) not in VERSIONS:
            result.note(about, f"is not carried over: the version {version} is not one of {', '.join(VERSIONS)}")
        elif kind == "ExternalSecret" and (read := _read_manifest(each, ExternalSecret, result)):
            seen.add((namespace_of(each), each["metadata"]["name"]))
            yield each, read
    for each in objects:
        if each["kind"] == "ClusterExternalSecret" and _api_group(each) == GROUP:
            if (cluster := _read_manifest(each, ClusterExternalSecret, result)) is None:
                continue
            parent = SourceObject("clusterexternalsecret", "", each["metadata"]["name"])
            for source, external in cluster_external_secrets.expand(each, cluster, objects, result):
                where = (namespace_of(source), source["metadata"]["name"])
                parents.setdefault(where, parent)
                if where not in seen:
                    seen.add(where)
                    yield source, external


def _read_manifest(manifest: Manifest, shape: type[T], result: ConversionResult) -> T | None:
    try:
        read = foreign_manifests.read({"metadata": {}, **manifest}, shape)
    except msgspec.ValidationError as error:
        result.note(qualified_name(manifest), f"is not carried over: it does not have the form of its kind: {error}")
        return None
    raw = manifest.get("spec")
    for path in foreign_manifests.unknown_fields(raw, read.spec):
        result.note(qualified_name(manifest), f"spec.{path} is not known here and is left out")
    return read


def _convert_secret(
    external: ExternalSecret, source: Manifest, stores: StoreIndex, note: Callable[[str], None]
) -> WantedSecret:
    """Return the Secret that an ExternalSecret writes. Raise `InexpressibleSecret`, with the best alternative."""
    spec, target = external.spec, external.spec.target
    where = namespace_of(source)
    if target.manifest is not None:
        raise InexpressibleSecret(
            "it writes an object that is not a Secret: sync a Secret, and let the object refer to it"
        )
    if target.creation_policy in ("Merge", "CreateOrMerge"):
        raise InexpressibleSecret(
            f"creationPolicy {target.creation_policy} adds keys to a Secret of another component; this controller"
            " writes only whole Secrets: use a separate Secret for these keys"
        )
    if target.creation_policy == "None":
        raise InexpressibleSecret("creationPolicy None writes no Secret, so there is nothing to carry over")
    if spec.secret_store_ref:
        stores.reader(spec.secret_store_ref, where)
    if not spec.data and not spec.data_from:
        raise InexpressibleSecret("it has neither data nor dataFrom")
    keys = _convert_keys(external, where, stores, note)
    if target.deletion_policy != "Retain":
        note(f"deletionPolicy {target.deletion_policy} has no counterpart: {_KEEPS}")
    if target.immutable:
        note("immutable has no counterpart: delete the Secret once, so that the controller can write new values")
    if target.creation_policy == "Orphan":
        note("creationPolicy Orphan has no counterpart: the Secret is deleted with its AKVSync or SecretSync")
    if spec.refresh_policy not in ("", "Periodic") or _NO_INTERVAL.fullmatch(str(spec.refresh_interval)):
        note("today the Secret is written once, or only on an edit: this controller updates it from the vault")
    if spec.sync_windows is not None:
        note("syncWindows has no counterpart: the next poll writes a changed value")
    kind = (target.template.type if target.template else "") or DEFAULT_TYPE
    if kind == TLS_TYPE and "tls.key" in keys.entries:
        note(_KEY_FORM.format("tls.key"))
    labels, annotations = _convert_metadata(external, note)
    return WantedSecret(
        namespace=where,
        name=_secret_name(source, external),
        type=kind,
        labels=labels,
        annotations=annotations,
        entries=list(keys.entries.values()),
        whole=keys.whole,
        reader=keys.reader,
        lost=keys.lost,
    )


class _ConvertedKeys(msgspec.Struct, frozen=True):
    """The keys of a Secret, and the reasons why some of today's keys are lost, as in `WantedSecret`."""

    reader: VaultIdentity
    entries: Mapping[str, SecretEntry] = {}
    whole: Manifest | None = None
    lost: Mapping[str, str] = {}


def _convert_keys(
    external: ExternalSecret, where: str, stores: StoreIndex, note: Callable[[str], None]
) -> _ConvertedKeys:
    """Return the keys that carry over. Raise `InexpressibleSecret` if there are none."""
    spec = external.spec
    many = data.read_data_from(spec, where, stores)
    read = data.read_values(spec.data, spec.secret_store_ref, where, stores)
    if len(many.found) + bool(read.values) > 1:
        raise InexpressibleSecret("its keys come from several entries of data and dataFrom: use a Secret for each")
    if many.found:
        ((whole, reader),) = many.found
        return _ConvertedKeys(reader, whole=whole, lost=dict(many.problems) | _name_keys(read.problems))
    entries, lost = _apply_template(external, read, note)
    for key in [key for key in entries if secret_limits.key_violation(key)]:
        lost[key] = str(secret_limits.key_violation(key))
        del entries[key]
    problems = dict(many.problems) | _name_keys(lost)
    if not entries or read.reader is None:
        raise InexpressibleSecret(wanted_secrets.join_problems(problems))
    return _ConvertedKeys(read.reader, entries=entries, lost=problems)


def _name_keys(problems: Mapping[str, str]) -> dict[str, str]:
    return {f"key {key!r}": problem for key, problem in problems.items()}


def _apply_template(
    external: ExternalSecret, read: data.ConvertedValues, note: Callable[[str], None]
) -> tuple[dict[str, SecretEntry], dict[str, str]]:
    """Return the keys of the Secret, the values themselves or those that a template names, and why others are lost."""
    found, values = external.spec.target.template, read.values
    if found is None or not (found.data or found.template_from):
        return dict(values), dict(read.problems)
    if found.template_from:
        raise InexpressibleSecret(
            "templateFrom has no counterpart: store the finished text in the vault, or let the workload create it"
        )
    is_merged = found.merge_policy == "Merge"
    entries, lost = (dict(values), dict(read.problems)) if is_merged else ({}, {})
    for key, text in found.data.items():
        parsed = template.parse(text)
        entries.pop(key, None)
        lost.pop(key, None)
        if parsed and parsed.key in read.problems:
            lost[key] = f"its template uses the key {parsed.key!r}: {read.problems[parsed.key]}"
            continue
        # A value is decoded once here.
        if parsed is None or parsed.key not in values or (parsed.decodes and values[parsed.key].encoding):
            what = "its template" if template.is_template(text) else "the constant in its template"
            lost[key] = (
                f"{what} has no counterpart: store the finished text in the vault, or have the workload put it together"
                " from several keys"
            )
            continue
        encoding = "base64" if parsed.decodes else values[parsed.key].encoding
        entries[key] = msgspec.structs.replace(values[parsed.key], key=key, part=parsed.part, encoding=encoding)
        if parsed.part == "tls.key":
            note(_KEY_FORM.format(key))
    return entries, lost


def _convert_metadata(external: ExternalSecret, note: Callable[[str], None]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the Secret's labels and annotations: those of the template, or else those of the ExternalSecret."""
    found = external.spec.target.template
    given = found.metadata if found else external.metadata
    if found and found.metadata.finalizers:
        note("finalizers of the Secret are not set")
    labels, annotations = given.labels, given.annotations
    for what, texts in (("label", labels), ("annotation", annotations)):
        if key := next((key for key, text in texts.items() if template.is_template(key + text)), ""):
            raise InexpressibleSecret(f"the {what} {key!r} has a template: write its result")
    kept = sync_rules.carried_metadata(labels, annotations)
    for what, before, after in (("label", labels, kept[0]), ("annotation", annotations, kept[1])):
        # kubectl and GitOps tools set their own on every object. Those of the ExternalSecret need no note.
        if found and (lost := sorted(before.keys() - after.keys())):
            note(f"the {what} {lost[0]!r} belongs to another tool: set it on the Secret if you need it")
    return kept
