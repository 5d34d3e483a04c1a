"""Search for values and tokens in every place that a value could reach, except Secrets."""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from tests.support.cluster.harness import CANARY, InstalledRelease, audit_lines, read_metrics
from tests.support.cluster.process_memory import list_encodings
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import PodProcess

# Three parts in base64. The first one begins a JSON object.
_JWT = re.compile(r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")


def read_texts(installed: InstalledRelease) -> Iterator[tuple[str, str]]:
    """Yield name and contents of each place: logs, every object of every kind, the API server's audit log."""
    for path in filter(Path.exists, installed.logs):
        yield str(path), path.read_text()
    yield from objects(installed.plane)
    yield "audit log", "".join(audit_lines(installed.plane))


def objects(plane: ControlPlane, *, left_out: Collection[str] = ("secrets",)) -> Iterator[tuple[str, str]]:
    """Yield all objects of each kind that can be listed, except those left out, as JSON with managed fields."""
    for group in _group_versions(plane):
        for resource in plane.read_object(group)["resources"]:
            if "list" in resource["verbs"] and resource["name"] not in left_out:
                path = f"{group}/{resource['name']}"
                status, text = plane.request("GET", path)
                if status != 404:  # the CRD was removed meanwhile
                    assert status == 200, f"GET {path}: {status} {text}"
                    yield path, text


def _group_versions(plane: ControlPlane) -> Iterator[str]:
    yield "/api/v1"
    for group in plane.read_object("/apis")["groups"]:
        yield f"/apis/{group['preferredVersion']['groupVersion']}"


def find_leaks(installed: InstalledRelease, controller: PodProcess, values: Iterable[bytes]) -> list[str]:
    """Return a line for each place that has a token or, in any encoding, one of the values."""
    return list(search_texts([("metrics", read_metrics(controller)), *read_texts(installed)], values))


def search_texts(places: Iterable[tuple[str, str]], values: Iterable[bytes] = (CANARY.encode(),)) -> Iterator[str]:
    """Yield a line for each place that has a token or, in any encoding, one of the values."""
    needles = [form for value in values for form in list_encodings(value)]
    for name, text in places:
        data = text.encode()
        if any(needle in data for needle in needles):
            yield f"a value is in {name}"
        if _JWT.search(text):
            yield f"a token is in {name}"
