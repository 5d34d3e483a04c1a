"""Test what tools/migrate says if the cluster or a namespace has no SecretSync."""

from typing import cast

import pytest

from tools.cli.common.kube_client import Object, OperatorKubeClient
from tools.cli.migrate.common import list_syncs


class EmptyCluster:
    """A client of a cluster without SecretSyncs."""

    async def list_objects(self, path: str, labels: str = "") -> list[Object]:
        """Return no object."""
        return []


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        ("", "there is no SecretSync in the cluster\n"),
        ("shpo", "there is no SecretSync in namespace shpo\n"),
    ],
)
async def test_missing_syncs_are_reported_with_the_place(
    namespace: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await list_syncs(cast("OperatorKubeClient", EmptyCluster()), namespace) == []
    assert capsys.readouterr().err == message
