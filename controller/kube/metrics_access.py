"""Let the API server decide which clients can read the metrics, if metrics.authentication is enabled.

As in controller-runtime, a TokenReview checks the token, then a SubjectAccessReview checks the right to `get` the path
/metrics. Answers are cached for a while. A flood of tokens causes a bounded number of reviews, for one address and in
total. A token that was allowed before is always reviewed again, so that a flood cannot lock out Prometheus.

Source: Kubernetes documentation, "Authentication, webhook token authentication" and "Authorization".
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus

from controller import errors
from controller.kube import permissions
from controller.kube.client import KubeClient
from controller.runtime.budgets import Budget, RateBudget

PATH = "/metrics"
# Seconds for which an answer is cached. A revoked right ends after this time.
ALLOWED_SECONDS, DENIED_SECONDS = 60.0, 10.0
# Number of cached answers.
MAX_ALLOWED, MAX_DENIED = 64, 256
MAX_TOKEN = 8192
PER_ADDRESS = Budget("reviews of tokens from one address", 10, "a minute", "429", "", 60)
IN_TOTAL = Budget("reviews of tokens", 120, "a minute", "429", "", 60)


class MetricsAccess:
    """Decide which requests can read the metrics, by the rules in the module's docstring."""

    def __init__(self, kube: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._lock = asyncio.Lock()
        self._per_address, self._in_total = RateBudget(PER_ADDRESS, clock), RateBudget(IN_TOTAL, clock)
        # The expiry of each cached answer, by the digest of the token.
        self.allowed: OrderedDict[bytes, float] = OrderedDict()
        self.denied: OrderedDict[bytes, tuple[float, HTTPStatus]] = OrderedDict()

    async def check_request(self, authorization: str, address: str) -> HTTPStatus:
        """Return OK, or the HTTP status that refuses a request with this Authorization header from this address."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip() or not token.isascii() or len(token) > MAX_TOKEN:
            return HTTPStatus.UNAUTHORIZED
        digest = hashlib.sha256(token.strip().encode()).digest()
        async with self._lock:  # one review at a time; a waiting request finds the answer of the previous one
            if known := self._known_status(digest):
                return known
            was_allowed = digest in self.allowed
            if not was_allowed and not (self._per_address.take(address) and self._in_total.take("")):
                return HTTPStatus.TOO_MANY_REQUESTS
            try:
                status = await self._review_token(token.strip())
            except errors.KubeError:
                return HTTPStatus.SERVICE_UNAVAILABLE
            self._remember_status(digest, status)
            return status

    def _known_status(self, digest: bytes) -> HTTPStatus | None:
        now = self._clock()
        if self.allowed.get(digest, 0.0) > now:
            return HTTPStatus.OK
        until, status = self.denied.get(digest, (0.0, HTTPStatus.FORBIDDEN))
        return status if until > now else None

    def _remember_status(self, digest: bytes, status: HTTPStatus) -> None:
        self.allowed.pop(digest, None)
        self.denied.pop(digest, None)
        if status is HTTPStatus.OK:
            self.allowed[digest] = self._clock() + ALLOWED_SECONDS
        else:
            self.denied[digest] = (self._clock() + DENIED_SECONDS, status)
        if len(self.allowed) > MAX_ALLOWED:
            self.allowed.popitem(last=False)
        if len(self.denied) > MAX_DENIED:
            self.denied.popitem(last=False)

    async def _review_token(self, token: str) -> HTTPStatus:
        reviewed = (await permissions.TOKEN_REVIEWS.review(self._kube, {"token": token})).status
        if not reviewed.authenticated:
            return HTTPStatus.UNAUTHORIZED
        user = reviewed.user
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "nonResourceAttributes": {"path": PATH, "verb": "get"},
        }
        answer = await permissions.ACCESS_REVIEWS.review(self._kube, spec)
        return HTTPStatus.OK if answer.status.allowed else HTTPStatus.FORBIDDEN
