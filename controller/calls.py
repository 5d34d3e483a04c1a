"""The requests to one Key Vault as one identity: each in its turn, counted, and its failure in words for people.

Source: Azure Key Vault REST API reference; "Azure Key Vault throttling guidance".
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from azure.core.exceptions import AzureError, DecodeError, HttpResponseError
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport

from controller.errors import ControllerError, ObjectError, ProviderError
from controller.identity import FederatedCredential, Identity
from controller.network import explain_connection, new_pipeline
from controller.objects import VaultObject
from controller.pace import Pace
from controller.refusals import explain, throttled
from controller.shares import Slots
from controller.sources import SOURCES, Source

# A vault that could not be reached is left alone this long, whoever asks: a thousand SecretSyncs are one attempt.
LEAVE_ALONE = 5.0
# Requests under way at once to all vaults, of which a namespace has at most half; and to one vault, enough to fill
# 400/s at 50 ms each: where it lets every request hang, there is room for the namespace's others.
AT_ONCE = 64
AT_ONCE_EACH = 24
# Whoever would wait longer for its turn at a vault that refuses makes room for the work on others, and comes again.
PATIENCE = 1.0

# A body that is not what the API promises surfaces as whatever the SDK tripped over.
UNUSABLE = (
    DecodeError,
    AttributeError,
    TimeoutError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
)

T = TypeVar("T")


class Calls:
    """One vault as one identity reaches it; `count` hears vault, operation and outcome of each request."""

    def __init__(
        self,
        vault: str,
        url: str,
        identity: Identity,
        credential: FederatedCredential,
        transport: AioHttpTransport,
        slots: Slots,
        pace: Pace,
        count: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.vault = vault
        self.url = url
        self._identity = identity
        self._slots = slots
        self._own_slots = asyncio.Semaphore(AT_ONCE_EACH)
        self._pace = pace
        self._count = count
        # By verb: where only lists are out of order, values can still be had.
        self._down: dict[str, tuple[float, str]] = {}
        self._server_ahead = timedelta()
        self._credential = credential
        self._transport = transport
        self._sources: dict[str, Source] = {}

    def source(self, kind: str) -> Source:
        """What reads objects of that objectType, made when it is needed first."""
        if kind not in self._sources:
            pipeline = new_pipeline(self._credential, self._note)  # a client links its policies, so each has its own
            self._sources[kind] = SOURCES[kind](
                self.vault, self.url, self._credential, transport=self._transport, policies=pipeline
            )
        return self._sources[kind]

    def server_time(self) -> datetime:
        """What time it is by the vault's clock, going by its last answer (UTC)."""
        return datetime.now(UTC) + self._server_ahead

    async def make(
        self,
        source: Source,
        verb: str,
        found: VaultObject | None,
        request: Callable[[], Awaitable[T]],
        *,
        first: bool,
    ) -> T:
        """One request; its failure is translated, counted, and remembered where it concerns the whole vault."""
        self._raise_if_down(verb)
        await self._turn((self, verb, found or source.plural), first)
        async with self._own_slots, self._slots.of(self._identity.namespace):
            self._raise_if_down(verb)
            if closed := self._pace.closed():
                raise throttled(self.vault, closed)
            if before := self._down.get(verb):
                # One caller tries whether the vault is back; until it knows, the others hear what they heard before.
                self._down[verb] = (self.clock() + LEAVE_ALONE, before[1])
            outcome = "error"
            try:
                async with asyncio.timeout(60):
                    answer = await self._with_a_good_token(request)
                outcome = "ok"
                self._answered(verb)
                return answer
            except UNUSABLE as error:
                text = f"Key Vault {self.vault} gave no usable answer; the controller tries again by itself"
                raise self._leave_alone(verb, ProviderError(text)) from error
            except HttpResponseError as error:
                outcome = str(error.status_code)
                translated = explain(error, self.vault, self._identity.client_id, source, verb, found)
                if error.status_code == 429:
                    self._pace.refused(translated.retry_after)
                elif isinstance(translated, ObjectError):
                    self._answered(verb)  # it speaks, and of this object alone
                else:
                    self._leave_alone(verb, translated)
                raise translated from error
            except ObjectError:  # it answered, with what nobody should have
                outcome = "ok"
                self._answered(verb)
                raise
            except ControllerError:  # from the credential, which remembers its own failures
                outcome = "no token"
                raise
            except AzureError as error:
                text = explain_connection(error, f"Key Vault {self.vault}")
                raise self._leave_alone(verb, ProviderError(text)) from error
            finally:
                self._count(self.vault, f"{source.plural}.{verb}", outcome)

    async def _with_a_good_token(self, request: Callable[[], Awaitable[T]]) -> T:
        """Sent once more where the vault did not take the token and there is another.

        Else a token that went bad would look like a vault that is down, and be waited for.
        """
        sent = self.clock()
        try:
            return await request()
        except HttpResponseError as error:
            if error.status_code != 401 or not self._credential.refused(sent):
                raise
        return await request()

    async def _turn(self, who: object, first: bool) -> None:
        while wait := self._pace.wait(who, first=first):
            if wait > PATIENCE and self._pace.slowed:
                raise throttled(self.vault, wait)
            await asyncio.sleep(wait)

    def _raise_if_down(self, verb: str) -> None:
        if (down := self._down.get(verb)) and self.clock() < down[0]:
            raise ProviderError(down[1])

    def _answered(self, verb: str) -> None:
        self._down.pop(verb, None)
        self._pace.answered()

    def _leave_alone(self, verb: str, error: ProviderError) -> ProviderError:
        self._down[verb] = (self.clock() + max(error.retry_after or 0.0, LEAVE_ALONE), error.message)
        return error

    def _note(self, response: PipelineResponse[Any, Any]) -> None:
        """Takes the server's clock from an answer, and the status of one whose body the SDK could not decode."""
        answer = response.http_response
        try:
            said = parsedate_to_datetime(answer.headers.get("Date", ""))
            self._server_ahead = said.astimezone(UTC) - datetime.now(UTC)
        except (ValueError, TypeError):
            pass
        if answer.status_code >= 500:  # a gateway's error page, mostly
            raise HttpResponseError(response=answer)

    async def close(self) -> None:
        """Lets go of the clients."""
        for source in self._sources.values():
            await source.close()
