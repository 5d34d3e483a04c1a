"""What goes wrong on purpose: latency, throttling, broken answers. Decides; the server carries it out. No I/O."""

from collections import Counter, deque
from typing import Literal

import msgspec

from tools.keyvault_emulator.errors import Refusal, vault_error

WINDOW = 10.0
"""Seconds over which a vault counts transactions."""

VAULT_LIMIT = 4000
"""Transactions per WINDOW of a real vault (learn.microsoft.com/azure/key-vault/general/service-limits)."""

Fault = Literal["answer", "drop", "reset", "hang", "drip", "huge", "garbage"]


class Break(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A way to fail, for the calls that match.

    - answer: `status` with `headers` and `body` (a Key Vault error if None)
    - drop: the connection is reset without an answer
    - reset: it is reset in the middle of a body
    - hang: nothing comes, for `seconds`, then the connection is closed
    - drip: the body of `status` comes one byte every `seconds`
    - huge: a JSON string of `size` bytes
    - garbage: 200 and application/json, with bytes that are none
    """

    kind: Fault = "answer"
    status: int = 503
    headers: dict[str, str] = {}
    body: str | None = None
    where: str | None = None
    """A vault's name or "entra"; None: everywhere."""
    operation: str | None = None
    """Such as "secrets.get" or "token"; None: every operation."""
    times: int | None = None
    """How many calls fail; None: all until `heal`."""
    seconds: float = 1.0
    size: int = 100_000_000

    def text(self) -> str:
        """The body to send."""
        if self.body is not None:
            return self.body
        if self.status < 400:
            return "{}"
        code = {429: "Throttled", 503: "ServiceUnavailable", 500: "InternalServerError"}.get(self.status, "Fault")
        return msgspec.json.encode(
            {"error": {"code": code, "message": "The emulator was told to answer this."}}
        ).decode()


class Limiter:
    """A vault's limit: at most `limit` transactions in any WINDOW; refused calls do not count, failed ones do."""

    def __init__(self, limit: int = VAULT_LIMIT, retry_after: int | None = None) -> None:
        self.limit = limit
        self.retry_after = retry_after
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> Refusal | None:
        """Counts one call at `now` (seconds, any steady clock), or returns the 429 it gets."""
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


class Faults:
    """Everything that is broken at the moment."""

    def __init__(self) -> None:
        self._delays: dict[tuple[str | None, str | None], float] = {}
        self._breaks: list[Break] = []
        self._limiters: dict[str, Limiter] = {}

    def delay(self, seconds: float, where: str | None, operation: str | None) -> None:
        """From now on such calls take `seconds` longer; 0 takes that back."""
        self._delays[where, operation] = seconds

    def fail(self, fault: Break) -> None:
        """From now on calls that match fail so; the newest of several that match wins."""
        self._breaks.append(fault)

    def throttle(self, vault: str, limiter: Limiter) -> None:
        """Gives a vault a limit of its own, with an empty window."""
        self._limiters[vault.lower()] = limiter

    def heal(self) -> None:
        """Ends all latency, failures and limits of one's own."""
        self.__init__()  # type: ignore[misc]  # the state after a start is the healthy one

    def latency(self, where: str, operation: str) -> float:
        """Seconds to wait before this call is looked at: the most specific delay that was set."""
        for key in ((where, operation), (None, operation), (where, None), (None, None)):
            if key in self._delays:
                return self._delays[key]
        return 0.0

    def pick(self, where: str, operation: str) -> Break | None:
        """How this call fails, or None. It counts as one of the fault's `times`."""
        for fault in reversed(self._breaks):
            if fault.where in (None, where) and fault.operation in (None, operation) and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def admit(self, vault: str, now: float) -> Refusal | None:
        """The 429 that this call to a vault gets, or None."""
        return self._limiters.setdefault(vault, Limiter()).admit(now)


class Counters:
    """How often what was called by whom with which outcome."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    def count(self, where: str, operation: str, client_id: str, outcome: str) -> None:
        """One call; `outcome` is the HTTP status, or the kind of fault that left none."""
        self._counts[where, operation, client_id, outcome] += 1

    def totals(self, by_client: bool = False) -> dict[str, int]:
        """Calls by "my-vault/secrets.get/200", or `by_client` by "my-vault/secrets.get/200/<client id>"."""
        totals: Counter[str] = Counter()
        for (where, operation, client_id, outcome), number in self._counts.items():
            totals[f"{where}/{operation}/{outcome}" + (f"/{client_id}" if by_client else "")] += number
        return dict(sorted(totals.items()))

    def reset(self) -> None:
        """Starts from nothing."""
        self._counts.clear()
