"""Write the report of a migration from another operator: the stages in their order, with their commands. Pure.

A Secret exists at all times. Either it is taken over in place: the other operator's object is deleted without its
Secret, and the Secret gets the SecretSync as its owner. Or a Secret with another name is created beside it, and the
workloads change to that one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from tools.cli.capacity.fleet import CREDENTIALS_PER_IDENTITY
from tools.cli.common import helm
from tools.cli.common.printable import command, markdown, word
from tools.cli.doctor.checks import federated_credential, role
from tools.cli.migrate.migration_report import MANIFESTS, patch_file
from tools.cli.migrate.objects import Manifest, namespace_of, qualified_name
from tools.cli.migrate.operators.result import ConversionResult, SecretTakeover, SourceObject

# Manifests outside of the migration that the report names.
_MAX_LISTED = 20


class OperatorTexts(msgspec.Struct, frozen=True, kw_only=True):
    """The texts and commands for one operator.

    `before_commands` run before the first object of the operator is deleted, and `before` explains them. `resume` has
    the commands that undo them for objects that remain. `metadata` has the labels and annotations that the operator
    leaves on a Secret. `after` is the last step.
    """

    title: str
    before: str = ""
    before_commands: Sequence[str] = ()
    resume: Sequence[str] = ()
    metadata: Mapping[str, Sequence[str]] = {}
    after: str


EXTERNAL_SECRETS = OperatorTexts(
    title="External Secrets",
    metadata={
        "labels": ("reconcile.external-secrets.io/managed", "reconcile.external-secrets.io/created-by"),
        "annotations": ("reconcile.external-secrets.io/data-hash",),
    },
    after="Then delete the stores, revoke their credentials, and uninstall External Secrets.",
)
AKV2K8S = OperatorTexts(
    title="akv2k8s",
    before=(
        "First stop the controller of akv2k8s: it removes its keys from a Secret when an AzureKeyVaultSecret is"
        " deleted. Its release can have another name and namespace."
    ),
    before_commands=(
        command("kubectl", "scale", "deployment", "akv2k8s-controller", "--namespace", "akv2k8s", "--replicas=0"),
    ),
    resume=(command("kubectl", "scale", "deployment", "akv2k8s-controller", "--namespace", "akv2k8s", "--replicas=1"),),
    after=(
        "Then uninstall akv2k8s, remove the label azure-key-vault-env-injection from the namespaces, and revoke the"
        " rights of its identity."
    ),
)


def build_report(found: ConversionResult, operator: OperatorTexts, issuer: str) -> str:
    """Return the report in Markdown. Without an issuer, its commands use the shell variable ISSUER."""
    return "\n".join(_report_lines(found, operator, issuer)) + "\n"


def _report_lines(found: ConversionResult, operator: OperatorTexts, issuer: str) -> Iterator[str]:
    yield f"# From {operator.title} to this controller"
    yield from ("", "## Notes that need your attention", "")
    yield from ([f"- {markdown(note)}" for note in sorted(found.notes)] or ["None."])
    yield from ("", "## 1. Inventory", "")
    yield from [f"- {markdown(qualified_name(each))}" for each in (*found.manifests, *found.patches)] or [
        "Nothing to apply."
    ]
    if found.untouched:
        listed = found.untouched[:_MAX_LISTED]
        more = f" and {len(found.untouched) - len(listed)} more" if len(found.untouched) > len(listed) else ""
        yield from ("", f"Not part of the migration: {', '.join(map(markdown, listed))}{more}.")
    yield from ("", "## 2. Identity and federation", "")
    yield (
        f"An identity can have {CREDENTIALS_PER_IDENTITY} federated credentials, of all clusters together. Each of"
        " these ServiceAccounts must exist:"
    )
    accounts = sorted({(who.namespace, who.service_account) for who, _ in found.roles})
    yield from ("", *[f"- {markdown(f'{where}/{name}')}" for where, name in accounts])
    yield from _command_block(
        [
            *sorted({federated_credential(identity, issuer) for identity, _ in found.roles}),
            *sorted(
                {role(identity, vault, name) for (identity, vault), names in found.roles.items() for name in names}
            ),
        ]
    )
    yield from ("", "## 3. Install", "", f"The controller can run beside {operator.title}.")
    yield from _command_block([f"helm install {helm.RELEASE} ./chart --namespace {helm.RELEASE} --create-namespace"])
    yield from ("", "## 4. Apply", "")
    yield (
        "Secrets of another owner do not change: until step 6, the status of each SecretSync reports that its Secret"
        " belongs to another owner. Before you continue, run `tools/doctor` to check the identities and the vaults."
    )
    yield from _command_block([command("kubectl", "apply", "--filename", MANIFESTS)] if found.manifests else [])
    yield from ("", "## 5. Workloads", "", "Each patch restarts the pods.")
    yield from _command_block(
        [*map(_wait_for_manifest, _syncs_without_takeover(found)), *map(_patch_command, found.patches)]
    )
    yield from _takeover_lines(found, operator)
    yield from ("", "## 7. Verify, then remove", "", *_after_lines(found, operator))
    yield from _command_block([*map(_wait_for_manifest, _ready_commands(found)), "tools/doctor --quiet"])


def _takeover_lines(found: ConversionResult, operator: OperatorTexts) -> Iterator[str]:
    yield from ("", "## 6. Take the Secrets over", "")
    beside = [each for each in found.takeovers if each.new_name != each.name]
    if beside:
        yield "The new Secrets exist beside the old ones. Change the workloads to them, then delete the sources:"
        yield ""
        yield from [
            f"- {markdown(f'{each.namespace}/{each.name}')} becomes {markdown(each.new_name)}" for each in beside
        ]
        yield from _command_block(
            [
                *map(_wait_for, beside),
                *_delete_parents(found),
                *(line for each in beside for line in _delete_command(each, orphan=False)),
            ]
        )
    else:
        yield from _in_place_lines(found, operator)
    yield from _partial_lines(found, operator)


def _in_place_lines(found: ConversionResult, operator: OperatorTexts) -> Iterator[str]:
    yield (
        "First suspend every tool that would create the old objects again, such as a GitOps tool. Each Secret keeps its"
        " name and values, so pods are not affected. A value that changes in the meantime arrives at the end."
    )
    if found.takeovers and operator.before:
        yield from ("", operator.before)
        yield from _command_block(list(operator.before_commands))
    yield from _command_block(
        _parent_commands(found, operator)
        + [
            line
            for each in found.takeovers
            for line in (
                *([] if each.parent else _prepare_command(each)),
                *_delete_command(each, orphan=True),
                _adopt_command(each, operator),
            )
        ]
    )


def _parent_commands(found: ConversionResult, operator: OperatorTexts) -> list[str]:
    """Return the commands that delete what would create the sources again.

    External Secrets from 0.20 on then deletes the sources, and the garbage collector deletes each Secret that has no
    other owner. Therefore the SecretSyncs become owners first.
    """
    children = [each for each in found.takeovers if each.parent]
    retained = [each for each in children if each.prepare]
    return [
        *dict.fromkeys(line for each in retained for line in _prepare_command(each)),
        *(_wait_for_retain(source) for each in retained for source in each.sources),
        *(_adopt_command(each, operator) for each in children),
        *_delete_parents(found),
    ]


def _delete_parents(found: ConversionResult) -> list[str]:
    parents = sorted({each.parent for each in found.takeovers if each.parent})
    return [_delete_source(each, orphan=True) for each in parents]


def _partial_lines(found: ConversionResult, operator: OperatorTexts) -> Iterator[str]:
    """Name the Secrets that are not taken over because they would lose keys."""
    if not found.partial:
        return
    yield from ("", "### Secrets with keys that have no counterpart", "")
    yield (
        f"{operator.title} continues to write these Secrets, so Pods lose no key. Each new Secret has the keys that"
        " carry over. The notes name the best alternative for each other key. Add these keys to the new Secret, or to"
        " another one, change the workloads to its name, and delete the source last."
    )
    yield from ("", *[f"- {markdown(_partial_line(each))}" for each in found.partial])
    yield from _command_block([_wait_for(each) for each in found.partial])


def _partial_line(takeover: SecretTakeover) -> str:
    source = takeover.sources[0]
    return f"{takeover.namespace}/{takeover.name}, of {source.kind} {source.name}, beside it {takeover.new_name}"


def _after_lines(found: ConversionResult, operator: OperatorTexts) -> Iterator[str]:
    if not found.remaining:
        yield operator.after
        return
    listed = [f"{each.kind} {each.namespace}/{each.name}" for each in found.remaining]
    more = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
    yield (
        f"{operator.title} still writes Secrets for {', '.join(map(markdown, listed[:_MAX_LISTED]))}{more}. Keep it,"
        f" its stores and its credentials until these have another source. {operator.after}"
    )
    if found.takeovers and operator.resume:
        yield from ("", "Until then, start it again:")
        yield from _command_block(list(operator.resume))


def _command_block(lines: list[str]) -> Iterator[str]:
    yield from ("", "```console", *(lines or ["# nothing to do"]), "```")


def _prepare_command(takeover: SecretTakeover) -> list[str]:
    if not takeover.prepare:
        return []
    changed = [takeover.parent] if takeover.parent else takeover.sources
    return [
        command("kubectl", "patch", each.kind, each.name, *_at(each), "--type=merge", "--patch", takeover.prepare)
        for each in changed
    ]


def _wait_for_retain(source: SourceObject) -> str:
    wanted = "--for=jsonpath={.spec.target.deletionPolicy}=Retain"
    return command("kubectl", "wait", f"{source.kind}/{source.name}", *_at(source), wanted, "--timeout=60s")


def _delete_command(takeover: SecretTakeover, *, orphan: bool) -> list[str]:
    # The deletion of the parent can have deleted the sources.
    gone = ("--ignore-not-found",) if takeover.parent else ()
    return [_delete_source(each, *gone, orphan=orphan) for each in takeover.sources]


def _delete_source(source: SourceObject, *flags: str, orphan: bool) -> str:
    cascade = ("--cascade=orphan",) if orphan else ()
    return command("kubectl", "delete", source.kind, source.name, *_at(source), *cascade, *flags)


def _at(source: SourceObject) -> tuple[str, ...]:
    return ("--namespace", source.namespace) if source.namespace else ()


def _adopt_command(takeover: SecretTakeover, operator: OperatorTexts) -> str:
    """Return the command that makes the SecretSync the owner of its Secret.

    If there is no SecretSync, its uid is empty, the API server refuses the owner, and nothing changes.
    """
    uid = command(
        *("kubectl", "get", "secretsync", takeover.name, "--namespace", takeover.namespace),
        *("--output", "jsonpath={.metadata.uid}"),
    )
    owner = {
        "apiVersion": SecretSync.api_version(),
        "kind": SecretSync.kind,
        "name": takeover.name,
        "uid": "UID",
    }
    meta = {field: dict.fromkeys(keys) for field, keys in operator.metadata.items()} | {"ownerReferences": [owner]}
    before, after = json.dumps({"metadata": meta}, separators=(",", ":")).split("UID")
    head = command(
        *("kubectl", "patch", "secret", takeover.name, "--namespace", takeover.namespace, "--type=merge", "--patch")
    )
    return f'{head} {word(before)}"$({uid})"{word(after)}'


def _patch_command(patch: Manifest) -> str:
    kind, name = patch["kind"].lower(), patch["metadata"]["name"]
    return command(
        "kubectl", "patch", kind, name, "--namespace", namespace_of(patch), "--patch-file", patch_file(patch)
    )


def _ready_commands(found: ConversionResult) -> list[Manifest]:
    return [each for each in found.manifests if each["kind"] != SecretProviderClass.kind]


def _syncs_without_takeover(found: ConversionResult) -> list[Manifest]:
    """Return the manifests whose Secrets are new. The patched workloads read these Secrets."""
    old = {(each.namespace, each.new_name) for each in (*found.takeovers, *found.partial)}
    return [each for each in _ready_commands(found) if (namespace_of(each), _secret_name(each)) not in old]


def _secret_name(manifest: Manifest) -> str:
    if manifest["kind"] == AKVSync.kind:
        return str(manifest["spec"]["objects"][0]["kubernetesSecretName"])
    return str(manifest["metadata"]["name"])


def _wait_for_manifest(manifest: Manifest) -> str:
    kind, name = manifest["kind"].lower(), manifest["metadata"]["name"]
    return _wait_command(kind, name, namespace_of(manifest))


def _wait_for(takeover: SecretTakeover) -> str:
    return _wait_command("secretsync", takeover.new_name, takeover.namespace)


def _wait_command(kind: str, name: str, where: str) -> str:
    return command(
        *("kubectl", "wait", f"{kind}/{name}", "--namespace", where, "--for=condition=Ready", "--timeout=60s")
    )
