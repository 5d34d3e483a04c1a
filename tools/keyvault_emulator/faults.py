"""Decide which calls fail on purpose: latency, throttling and broken answers. Pure: the server executes them."""

from collections import Counter, deque
from typing import Literal

import msgspec

from tools.keyvault_emulator.errors import ErrorAnswer, vault_error

WINDOW = 10.0
"""The seconds over which a vault counts transactions."""

VAULT_LIMIT = 4000
"""Transactions per WINDOW of a real vault (learn.microsoft.com/azure/key-vault/general/service-limits)."""

FaultKind = Literal["answer", "drop", "reset", "hang", "drip", "huge", "garbage"]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One kind of failure, for the calls that match.

    - answer: `status` with `headers` and `body` (a Key Vault error if None)
    - drop: the connection is reset without an answer
    - reset: it is reset in the middle of a body
    - hang: nothing is sent for `seconds`, then the connection is closed
    - drip: the body of `status` is sent one byte every `seconds`
    - huge: a JSON string of `size` bytes
    - garbage: 200 and application/json, with bytes that are not JSON
    """

    kind: FaultKind = "answer"
    status: int = 503
    headers: dict[str, str] = {}
    body: str | None = None
    raw: bytes | None = None
    """The body as bytes, if it is not text."""
    where: str | None = None
    """A vault's name or "entra"; None: everywhere."""
    operation: str | None = None
    """An operation such as "secrets.get" or "token"; None: every operation."""
    times: int | None = None
    """The number of calls that fail; None: all until `clear_faults`."""
    seconds: float = 1.0
    size: int = 100_000_000

    def content(self) -> bytes:
        """Return the body to send."""
        return self.text().encode() if self.raw is None else self.raw

    def text(self) -> str:
        """Return the body to send as text, if `raw` is None."""
        if self.body is not None:
            return self.body
        if self.status < 400:
            return "{}"
        code = {429: "Throttled", 503: "ServiceUnavailable", 500: "InternalServerError"}.get(self.status, "Fault")
        return msgspec.json.encode(
            {"error": {"code": code, "message": "The emulator was configured to answer this."}}
        ).decode()


class RateLimiter:
    """The limit of a vault: at most `limit` transactions in any WINDOW. Refused calls do not count, failed calls do."""

    def __init__(self, limit: int = VAULT_LIMIT, retry_after: int | None = None) -> None:
        self.limit = limit
        self.retry_after = retry_after
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> ErrorAnswer | None:
        """Count one call at `now` (seconds of a monotonic clock), or return the 429 for it."""
        while self._admitted and now - self._admitted[0] >= WINDOW:
            self._admitted.popleft()
        if len(self._admitted) < self.limit:
            self._admitted.append(now)
            return None
        return vault_error(
            429,
            "Throttled",
            "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached",
            headers={} if self.retry_after is None else {"Retry-After": str(self.retry_after)},
        )


class FaultTable:
    """All faults that are active."""

    def __init__(self) -> None:
        self._delays: dict[tuple[str | None, str | None], float] = {}
        self._faults: list[Fault] = []
        self._limiters: dict[str, RateLimiter] = {}

    def delay(self, seconds: float, where: str | None, operation: str | None) -> None:
        """Delay matching calls by `seconds` from now on; 0 ends the delay."""
        self._delays[where, operation] = seconds

    def fail(self, fault: Fault) -> None:
        """Make matching calls fail from now on. The newest of several matching faults applies."""
        self._faults.append(fault)

    def throttle(self, vault: str, limiter: RateLimiter) -> None:
        """Give a vault another limit, with an empty window."""
        self._limiters[vault.lower()] = limiter

    def clear_faults(self) -> None:
        """End all delays, failures and changed limits."""
        self.__init__()  # type: ignore[misc]  # there are no faults after a start

    def latency(self, where: str, operation: str) -> float:
        """Return the seconds to wait before this call is processed: the most specific delay that is set."""
        for key in ((where, operation), (None, operation), (where, None), (None, None)):
            if key in self._delays:
                return self._delays[key]
        return 0.0

    def pick(self, where: str, operation: str) -> Fault | None:
        """Return the fault of this call, or None. The call counts as one of the fault's `times`."""
        for fault in reversed(self._faults):
            if fault.where in (None, where) and fault.operation in (None, operation) and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def admit(self, vault: str, now: float) -> ErrorAnswer | None:
        """Count a call to a vault. Return the 429 for it, or None if it is within the limit."""
        return self._limiters.setdefault(vault, RateLimiter()).admit(now)


class CallCounters:
    """The numbers of calls by vault, operation, client and outcome."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    def count(self, where: str, operation: str, client_id: str, outcome: str) -> None:
        """Count one call. `outcome` is the HTTP status, or the kind of fault if there is no status."""
        self._counts[where, operation, client_id, outcome] += 1

    def totals(self, by_client: bool = False) -> dict[str, int]:
        """Return the calls by "my-vault/secrets.get/200", or `by_client` by "my-vault/secrets.get/200/<client id>"."""
        totals: Counter[str] = Counter()
        for (where, operation, client_id, outcome), number in self._counts.items():
            totals[f"{where}/{operation}/{outcome}" + (f"/{client_id}" if by_client else "")] += number
        return dict(sorted(totals.items()))

    def reset(self) -> None:
        """Set all counters to zero."""
        self._counts.clear()
