"""Test access to the metrics: the decision of a review, its lifetime, and the reviews in a flood of tokens."""

from http import HTTPStatus
from typing import Any, cast

import msgspec
import pytest

from controller import errors
from controller.kube import metrics_access
from controller.kube.client import KubeClient
from controller.kube.metrics_access import MetricsAccess

OK, UNAUTHORIZED, FORBIDDEN = HTTPStatus.OK, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN


class ApiServer:
    """An API server with the token `good`, whose user may read metrics, and `other`, whose user may not."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.token_reviews = 0
        self.specs: list[dict[str, Any]] = []
        self.fails = False
        self.revoked = False

    async def call(self, method: str, path: str, *, body: dict[str, Any], **_: object) -> bytes:
        assert method == "POST"
        if self.fails:
            raise errors.Unreachable("away")
        spec = msgspec.json.decode(msgspec.json.encode(body["spec"]))
        if path == "/apis/authentication.k8s.io/v1/tokenreviews":
            self.token_reviews += 1
            known = spec["token"] in ("good", "other")
            user = {"username": spec["token"], "groups": ["a"], "extra": {"k": ["v"]}} if known else {}
            return msgspec.json.encode({"status": {"authenticated": known, "user": user}})
        assert path == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        self.specs.append(spec)
        return msgspec.json.encode({"status": {"allowed": spec["user"] == "good" and not self.revoked}})


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def access(server: ApiServer) -> MetricsAccess:
    return MetricsAccess(cast("KubeClient", server), lambda: server.now)


@pytest.mark.parametrize(
    ("header", "status", "reviews"),
    [
        ("Bearer good", OK, 1),
        ("bearer  good", OK, 1),
        ("Bearer other", FORBIDDEN, 1),
        ("Bearer bad", UNAUTHORIZED, 1),
        ("", UNAUTHORIZED, 0),
        ("good", UNAUTHORIZED, 0),
        ("Bearer ", UNAUTHORIZED, 0),
        ("Basic good", UNAUTHORIZED, 0),
        ("Bearer " + "x" * 9_000, UNAUTHORIZED, 0),
        ("Bearer \udcff", UNAUTHORIZED, 0),
    ],
)
async def test_token_is_accepted_only_if_the_api_server_allows_it(
    access: MetricsAccess, server: ApiServer, header: str, status: HTTPStatus, reviews: int
) -> None:
    assert await access.check_request(header, "10.0.0.1") == status
    assert server.token_reviews == reviews
    for spec in server.specs:
        assert spec["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}
        assert (spec["groups"], spec["extra"]) == (["a"], {"k": ["v"]})


async def test_decision_is_cached_and_a_revoked_right_ends(access: MetricsAccess, server: ApiServer) -> None:
    for _ in range(5):
        assert await access.check_request("Bearer good", "a") == OK
        assert await access.check_request("Bearer bad", "a") == UNAUTHORIZED
    assert server.token_reviews == 2
    server.revoked = True
    assert await access.check_request("Bearer good", "a") == OK
    server.now += metrics_access.ALLOWED_SECONDS + 1
    assert await access.check_request("Bearer good", "a") == FORBIDDEN


async def test_flood_of_tokens_causes_a_bounded_number_of_reviews(access: MetricsAccess, server: ApiServer) -> None:
    """Send twenty tokens per second for five minutes from many addresses. Prometheus still gets its metrics."""
    assert await access.check_request("Bearer good", "prometheus") == OK
    refused = 0
    for second in range(300):
        server.now += 1
        for number in range(20):
            status = await access.check_request(f"Bearer {second}-{number}", "a" if number < 10 else f"{second % 100}")
            refused += status == HTTPStatus.TOO_MANY_REQUESTS
        assert await access.check_request("Bearer good", "prometheus") == OK
    minutes = 300 / 60 + 1
    assert server.token_reviews <= metrics_access.IN_TOTAL.limit * minutes + 6
    assert refused > 4_000
    assert len(access.allowed) == 1
    assert len(access.denied) <= metrics_access.MAX_DENIED


async def test_flood_from_one_address_leaves_reviews_to_others(access: MetricsAccess, server: ApiServer) -> None:
    for number in range(1_000):
        await access.check_request(f"Bearer {number}", "hostile")
    assert server.token_reviews == metrics_access.PER_ADDRESS.limit
    assert await access.check_request("Bearer good", "prometheus") == OK


async def test_failed_review_denies_access_and_is_not_cached(access: MetricsAccess, server: ApiServer) -> None:
    server.fails = True
    assert await access.check_request("Bearer good", "a") == HTTPStatus.SERVICE_UNAVAILABLE
    server.fails = False
    assert await access.check_request("Bearer good", "a") == OK
