"""The chart's upgrade Job: brings our CRDs up to date, only ever to a superset of what the cluster serves.

    python -m controller.crds DIR      each *.yaml in DIR is one CustomResourceDefinition

helm installs CRDs where they are absent and never touches them again. A CRD without our label was brought by somebody
else: the CSI driver's SecretProviderClass is left alone, SSE's SecretSync is widened. Exit codes: 0 all is well, 1 the
API server refused or could not be reached, or a CRD of ours cannot be widened, 2 bad input.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from controller import access, errors
from controller.api.secretproviderclass import SecretProviderClass
from controller.kube import Kube
from controller.permissions import CRDS
from controller.widening import Irreconcilable, widened

PART_OF = ("app.kubernetes.io/part-of", "akv-secret-store")
"""The label that tells our CRDs from those of others."""

_UNPROCESSABLE = 422
_ATTEMPTS = 3
_CSI_DRIVERS = f"{SecretProviderClass.plural}.{SecretProviderClass.group}"

Manifest = dict[str, Any]
log = logging.getLogger(__name__)


class BadInput(Exception):  # noqa: N818 -- the caller's error
    """A file that is not what it should be; the message names it."""


def load(folder: Path) -> list[Manifest]:
    """The CRDs in that folder. Raises `BadInput`."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    manifests = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            manifest = yaml.safe_load(path.read_text())
            name = manifest["metadata"]["name"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            raise BadInput(f"{path} is not a CustomResourceDefinition: {error}") from error
        except RecursionError as error:
            raise BadInput(f"{path} is not a CustomResourceDefinition: it is nested too deeply") from error
        if name not in CRDS.names:
            raise BadInput(f"{path}: {name} is none of {', '.join(CRDS.names)}")
        manifests.append(manifest)
    if not manifests:
        raise BadInput(f"{folder} holds no *.yaml")
    return manifests


def is_ours(crd: Manifest) -> bool:
    """Whether a release of this product brought it."""
    label, value = PART_OF
    return (crd["metadata"].get("labels") or {}).get(label) == value


def patch(served: Manifest, ours: Manifest) -> Manifest | None:
    """The merge patch that widens the served CRD by ours; None where nothing is to be done. Raises `Irreconcilable`."""
    if not is_ours(served) and served["metadata"]["name"] == _CSI_DRIVERS:
        return None
    spec = widened(served["spec"], ours["spec"], replace_rules=is_ours(served))
    if spec == served["spec"]:
        return None
    # Lists are replaced as a whole; the precondition makes sure that it is the one that was looked at.
    return {"metadata": {"resourceVersion": served["metadata"]["resourceVersion"]}, "spec": spec}


async def upgrade(kube: Kube, ours: Manifest) -> bool:
    """Brings one CRD up to date and says what was done; False where ours cannot be. Raises `errors.KubeError`."""
    name = ours["metadata"]["name"]
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            served = await CRDS.get(kube, name)
        except errors.NotFound:
            log.warning(
                "%s: the cluster does not have it, and this Job only changes what is there. `helm install` brings it;"
                " else: helm show crds <chart> | kubectl apply --server-side -f -",
                name,
            )
            return True
        try:
            body = patch(served, ours)
            if body is None:
                log.info("%s: nothing to do%s", name, "" if is_ours(served) else "; somebody else brought it")
                return True
            await CRDS.merge(kube, name, body)
        except errors.Conflict:
            if attempt == _ATTEMPTS:
                raise
            log.info("%s: it changed meanwhile, looking again", name)
        except (Irreconcilable, errors.Refused) as error:
            if isinstance(error, errors.Refused) and error.status != _UNPROCESSABLE:
                raise
            # Somebody else's may be of any shape, and the controller says what it misses there. Ours must not.
            level = logging.ERROR if is_ours(served) else logging.WARNING
            log.log(level, "%s: left as it is, for it cannot be widened to this release's: %s", name, error)
            return not is_ours(served)
        else:
            log.info("%s: brought up to date", name)
            return True
    raise AssertionError("the last attempt returns or raises")


async def _run(manifests: Sequence[Manifest], environment: Mapping[str, str]) -> bool:
    async with Kube(await access.find(environment)) as kube:
        return all([await upgrade(kube, manifest) for manifest in manifests])


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """The Job's program; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m controller.crds",
        description="Bring the CRDs of a cluster up to date with those in a folder, only ever to a superset.",
        epilog="In a pod the pod's ServiceAccount is used, elsewhere the file that KUBECONFIG names.",
    )
    parser.add_argument("folder", type=Path, help="the folder with one CustomResourceDefinition in each *.yaml")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    try:
        well = asyncio.run(_run(load(options.folder), environment))
    except BadInput as error:
        log.error("%s", error)
        return 2
    except errors.KubeError as error:
        log.error("the Kubernetes API refused or failed: %s", error)
        return 1
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
