"""Where a value could have got to, and whether it has: everything that people and machines see, but Secrets."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.cluster.memory import forms
from tests.cluster.world import Installed, metrics
from tools.workload import Workload

# Three parts in base64, the first of which is a JSON object's beginning.
_JWT = re.compile(r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")


def texts(installed: Installed, controller: Workload) -> Iterator[tuple[str, str]]:
    """Name and contents of each place: metrics, logs, every object of every kind, the API server's audit log."""
    yield "metrics", metrics(controller)
    for path in filter(Path.exists, installed.logs):
        yield str(path), path.read_text()
    kubectl = installed.plane.kubectl
    kinds = set(kubectl("api-resources", "--verbs=list", "--output=name").split()) - {"secrets"}
    for kind in sorted(kinds):
        yield kind, kubectl("get", kind, "--all-namespaces", "--output=yaml", "--show-managed-fields")
    yield "audit log", installed.plane.audit_log.read_text()


def leaked(installed: Installed, controller: Workload, values: Iterable[bytes]) -> list[str]:
    """The places in which one of the values is, in any form, or a token."""
    needles = [form for value in values for form in forms(value)]
    found = []
    for name, text in texts(installed, controller):
        data = text.encode()
        if any(needle in data for needle in needles):
            found.append(f"a value is in {name}")
        if _JWT.search(text):
            found.append(f"a token is in {name}")
    return found
