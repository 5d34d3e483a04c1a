"""Update the CRDs in the chart's upgrade Job. The result is always a superset of the served CRDs.

    python -m controller upgrade-crds DIR      each *.yaml in DIR is one CustomResourceDefinition

helm installs missing CRDs and never changes them later. A CRD without this product's label belongs to another product:
the Job does not change the CSI driver's SecretProviderClass, and widens SSE's SecretSync. Exit codes: 0 if the CRDs are
up to date; 1 if the API server refused a request or could not be reached, or if a CRD of this chart cannot be widened;
2 for bad input.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from controller import errors
from controller.api.secretproviderclass import SecretProviderClass
from controller.crd_upgrade.merge import MergeConflict, merge_crd_schemas
from controller.kube import config
from controller.kube.client import KubeClient
from controller.kube.permissions import CRDS
from controller.runtime import bounded_yaml

PART_OF = ("app.kubernetes.io/part-of", "akv-secret-store")
"""The label that distinguishes this product's CRDs from those of others."""

_UNPROCESSABLE = 422
_ATTEMPTS = 3
_CSI_DRIVERS = f"{SecretProviderClass.plural}.{SecretProviderClass.group}"

Manifest = dict[str, Any]
log = logging.getLogger(__name__)


class BadInput(Exception):  # noqa: N818 - the caller's error
    """A file is not a valid CRD. The message names the file."""


def load_crds(folder: Path) -> list[Manifest]:
    """Return the CRDs in that folder. Raise `BadInput` for an invalid file."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    manifests = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            [manifest] = bounded_yaml.load_all(bounded_yaml.read_text(path))
            name = manifest["metadata"]["name"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            raise BadInput(f"{path} is not a CustomResourceDefinition: {error}") from error
        if name not in CRDS.names:
            raise BadInput(f"{path}: {name} is not one of {', '.join(CRDS.names)}")
        manifests.append(manifest)
    if not manifests:
        raise BadInput(f"{folder} contains no *.yaml")
    return manifests


def is_own_crd(crd: Manifest) -> bool:
    """Return whether a release of this product installed it."""
    label, value = PART_OF
    return (crd["metadata"].get("labels") or {}).get(label) == value


def widening_patch(served: Manifest, ours: Manifest) -> Manifest | None:
    """Return the merge patch that widens the served CRD by this release's, or None if they agree.

    Raise `MergeConflict` if no schema accepts both.
    """
    if not is_own_crd(served) and served["metadata"]["name"] == _CSI_DRIVERS:
        return None
    spec = merge_crd_schemas(served["spec"], ours["spec"], replace_rules=is_own_crd(served))
    if spec == served["spec"]:
        return None
    # Lists are replaced as a whole. The precondition ensures that the served list is the one that was read.
    return {"metadata": {"resourceVersion": served["metadata"]["resourceVersion"]}, "spec": spec}


async def upgrade_crd(kube: KubeClient, ours: Manifest) -> bool:
    """Update one CRD and log the result. Return False if this release's cannot be merged. Raise `errors.KubeError`."""
    name = ours["metadata"]["name"]
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            served = await CRDS.get(kube, name)
        except errors.NotFound:
            log.warning(
                "%s: the cluster does not have it, and this Job only changes existing CRDs. `helm install` creates it;"
                " otherwise run: helm show crds <chart> | kubectl create --filename -",
                name,
            )
            return True
        try:
            body = widening_patch(served, ours)
            if body is None:
                log.info("%s: nothing to do%s", name, "" if is_own_crd(served) else "; another product installed it")
                return True
            await CRDS.merge(kube, name, body)
        except errors.Conflict:
            if attempt == _ATTEMPTS:
                raise
            log.info("%s: it changed in the meantime, checking again", name)
        except (MergeConflict, errors.Refused) as error:
            if isinstance(error, errors.Refused) and error.status != _UNPROCESSABLE:
                raise
            # A foreign CRD can have any form, and the controller reports what is missing. This product's CRD must be
            # correct.
            level = logging.ERROR if is_own_crd(served) else logging.WARNING
            log.log(level, "%s: left unchanged, because it cannot be widened to this release's: %s", name, error)
            return not is_own_crd(served)
        else:
            log.info("%s: updated", name)
            return True
    raise AssertionError("the last attempt returns or raises")


async def _upgrade_all(manifests: Sequence[Manifest], environment: Mapping[str, str]) -> bool:
    async with KubeClient(await config.find_config(environment)) as kube:
        return all([await upgrade_crd(kube, manifest) for manifest in manifests])


def run(folder: Path, environment: Mapping[str, str] = os.environ) -> int:
    """Upgrade the CRDs to those in the folder. Return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    try:
        is_up_to_date = asyncio.run(_upgrade_all(load_crds(folder), environment))
    except BadInput as error:
        log.error("%s", error)
        return 2
    except errors.KubeError as error:
        log.error("a request to the Kubernetes API failed: %s", error)
        return 1
    return 0 if is_up_to_date else 1
