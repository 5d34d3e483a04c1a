"""Read the controller's metrics."""

from prometheus_client.parser import text_string_to_metric_families

from tests.support.cluster.harness import read_metrics
from tools.pods.pod_process import PodProcess


def read_series(controller: PodProcess, name: str, /, **labels: str) -> list[tuple[dict[str, str], float]]:
    """Return the labels and the value of each series with that name and those labels."""
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(read_metrics(controller))
        for sample in family.samples
        if sample.name == f"akv_secret_store_{name}" and labels.items() <= sample.labels.items()
    ]
