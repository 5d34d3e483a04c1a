"""Count requests about the Secrets of a namespace in the audit log of the API server."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from tests.support.cluster.harness import audit_lines
from tests.support.cluster.namespace import Namespace


def count_probes(space: Namespace) -> int:
    """Return how often a Secret of the namespace was patched since the test module began.

    Each drift check sends an empty patch of the Secret. A write is also a patch, so a test must count from a moment
    after which nothing is written.
    """
    return sum(entry["verb"] == "patch" for entry in _requests(space))


def count_refused_dry_runs(space: Namespace, user: str) -> int:
    """Return how many dry runs for the namespace's Secrets the API server refused to that user with HTTP 422."""
    return sum(
        entry["user"]["username"] == user
        and "dryRun=All" in entry["requestURI"]
        and entry["responseStatus"]["code"] == HTTPStatus.UNPROCESSABLE_ENTITY
        for entry in _requests(space)
    )


def _requests(space: Namespace) -> Iterator[dict[str, Any]]:
    for line in audit_lines(space.installed.plane):
        if f'"{space.name}"' not in line:  # most lines are about other namespaces
            continue
        entry = json.loads(line)
        where = entry.get("objectRef", {})
        if (where.get("namespace"), where.get("resource")) == (space.name, "secrets"):
            yield entry
