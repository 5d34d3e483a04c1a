"""Decide what an answer of a vault, or a missing answer, says about the vault. Pure, and the only place of these rules.

| the vault … | for an object | for a list of objects |
| --- | --- | --- |
| answers, or refuses this request alone (403 of a role, 404, other 4xx) | answer | answer (403), else vault |
| sends a success status with an unreadable body | answer | vault |
| fails (3xx, 408, 5xx), ends the connection, or does not answer in time | object | vault |
| does not accept the token (401) | identity | identity |
| refuses every request (its network rules, the version of the API) | vault | vault |
| cannot be connected to (DNS, TLS, a proxy, a closed port) | vault | vault |
| asks for fewer requests (429) | throttled | throttled |

One odd object must not block its neighbours: a gateway can fail for one large value, and a proxy can cut one answer
off. So a failure for an object counts against the vault only together with the failure of another object.
`CircuitBreaker` counts.
"""

import enum
from typing import NamedTuple

from controller.keyvault.errors import LASTING, VaultRefusal


class Meaning(enum.Enum):
    """What an attempt says, and about what."""

    ANSWER = "the vault answered: a value, or a refusal that concerns this request alone"
    OBJECT_FAILURE = "this request failed, which can be due to the requested object"
    IDENTITY_FAILURE = "the vault did not accept the token of the identity"
    VAULT_FAILURE = "the vault failed, whatever was requested"
    THROTTLED = "the vault asks for fewer requests"


class Loss(enum.Enum):
    """Why an attempt got no usable answer."""

    NOT_CONNECTED = "there was no connection"
    NOT_CONNECTED_IN_TIME = "there was no connection in time"
    CUT_OFF = "the connection ended before or within the answer"
    TIMED_OUT = "the answer did not arrive in time"
    UNREADABLE = "the status is a success, and the body cannot be read"


class Verdict(NamedTuple):
    """The meaning of one attempt. `lasts`: another request would fail, too. `retry`: send the same request again."""

    meaning: Meaning
    lasts: bool
    retry: bool


def judge_attempt(result: VaultRefusal | Loss | None, *, has_object: bool, retries_left: int) -> Verdict:
    """Return what an attempt means. `result` is None if the vault gave what was requested.

    `has_object`: one object was requested, or the versions of one object; otherwise, a list of objects.
    """
    meaning, lasts = _judge_result(result, has_object)
    is_temporary = meaning in (Meaning.OBJECT_FAILURE, Meaning.IDENTITY_FAILURE, Meaning.VAULT_FAILURE) and not lasts
    # After a timeout, or a Retry-After, an immediate retry would only occupy a slot.
    is_late = result in (Loss.TIMED_OUT, Loss.NOT_CONNECTED_IN_TIME)
    waits = isinstance(result, VaultRefusal) and bool(result.retry_after)
    return Verdict(meaning, lasts, retry=is_temporary and not is_late and not waits and retries_left > 0)


def _judge_result(result: VaultRefusal | Loss | None, has_object: bool) -> tuple[Meaning, bool]:
    """Return the meaning, and whether it lasts."""
    failure = Meaning.OBJECT_FAILURE if has_object else Meaning.VAULT_FAILURE
    match result:
        case None:
            return Meaning.ANSWER, False
        case Loss.NOT_CONNECTED | Loss.NOT_CONNECTED_IN_TIME:
            return Meaning.VAULT_FAILURE, False
        case Loss.CUT_OFF | Loss.TIMED_OUT:
            return failure, False
        case Loss.UNREADABLE:
            return (Meaning.ANSWER if has_object else failure), False
        case VaultRefusal(status=429):
            return Meaning.THROTTLED, False
        case VaultRefusal(status=401):
            return Meaning.IDENTITY_FAILURE, result.token_fault in LASTING
        case VaultRefusal(status=403):
            is_of_vault = result.is_of_network and not (has_object and result.is_disabled)
            return (Meaning.VAULT_FAILURE, True) if is_of_vault else (Meaning.ANSWER, False)
        case VaultRefusal(status=status) if 200 <= status < 300:
            return (Meaning.ANSWER if has_object else failure), False
        case VaultRefusal(status=status) if status < 400 or status == 408 or status >= 500:
            return failure, False
        case _:
            is_answer = has_object and not result.is_unknown_api_version
            return (Meaning.ANSWER, False) if is_answer else (Meaning.VAULT_FAILURE, True)
