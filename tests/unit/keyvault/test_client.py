"""Test the times of retries of a failed request to a vault, in virtual time."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from azure.core.exceptions import ServiceRequestError

from controller.errors import ProviderError
from controller.keyvault.client import AT_ONCE, VaultClient
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.errors import VaultAddress
from controller.keyvault.objects import ObjectClient
from controller.runtime.circuit_breaker import HEALTHY_OUTCOMES
from controller.runtime.fair_share import FairSemaphore
from controller.runtime.rate_limiter import AdaptiveRateLimiter
from tests.support import virtual_time

LIST = cast("ObjectClient", SimpleNamespace(plural="secrets"))


async def get_token_info() -> None:
    """Return at once, as if the token was cached."""


def make_client(clock: Callable[[], float]) -> VaultClient:
    return VaultClient(
        VaultAddress("vault", "https://vault"),
        Identity("team", "robot", "client", "tenant"),
        cast("FederatedCredential", SimpleNamespace(get_token_info=get_token_info)),
        cast("Any", None),
        FairSemaphore(AT_ONCE),
        AdaptiveRateLimiter(clock),
        lambda *_: None,
        clock,
    )


@pytest.mark.parametrize(
    ("answers_before", "moments"),
    [
        pytest.param(0, {"least": [0, 0.2], "most": [0, 0.3]}, id="first-request"),
        pytest.param(2 * HEALTHY_OUTCOMES, {"least": [0, 0.2, 1.2], "most": [0, 0.3, 1.8]}, id="vault-that-answers"),
    ],
)
@pytest.mark.parametrize("chance", ["least", "most"])
def test_failed_request_is_retried_after_200_ms_and_then_after_1_s(
    monkeypatch: pytest.MonkeyPatch, answers_before: int, moments: dict[str, list[float]], chance: str
) -> None:
    monkeypatch.setattr(random, "uniform", min if chance == "least" else max)

    async def main(clock: Callable[[], float]) -> list[float]:
        client, sent = make_client(clock), []

        async def answer() -> None:
            """Return at once."""

        async def fail() -> None:
            sent.append(clock())
            raise ServiceRequestError("connection refused")

        for _ in range(answers_before):
            await client.request(LIST, "list", None, answer, first=True)
        start = clock()
        with pytest.raises(ProviderError):
            await client.request(LIST, "list", None, fail, first=True)
        return [moment - start for moment in sent]

    assert virtual_time.run_virtual(main) == pytest.approx(moments[chance])
