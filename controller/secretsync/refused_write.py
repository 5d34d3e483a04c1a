"""Retry a refused write of a Secret without vault calls.

An admission policy, a webhook or a quota refuses a write until an administrator changes it, and the controller does not
watch these. After a refusal, the controller therefore sends the same write as a dry run with a placeholder for each
value, and stores the result. Each later attempt begins with this dry run. While it has the same result, the values are
not read again. The placeholders can hide a change, so one attempt in each poll interval reads the values nevertheless.

A failure that can pass by itself, such as 503 while the API server restarts, counts as a refusal only if the dry run
fails in the same way. Otherwise the next attempt writes.
"""

import asyncio
import copy
from typing import Self

import msgspec

from controller import errors
from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync
from controller.domain.decision import placeholder_write
from controller.kube import permissions
from controller.kube.client import KubeClient


class RefusedWrite(msgspec.Struct, frozen=True):
    """A refused write: its error and the result of the dry run after it.

    `rehearsed` is the API server's error of the dry run, or empty. From `until` (the event loop's clock), the values
    are read nevertheless.
    """

    error: errors.ControllerError
    rehearsed: str
    until: float

    @classmethod
    async def rehearse_write(
        cls,
        kube: KubeClient,
        sync: SecretSync,
        secret: ObjectMeta | None,
        error: errors.ControllerError,
        seconds: float,
    ) -> Self | None:
        """Send a dry run of a refused write. Its result counts for this many seconds.

        Return None if the failure may have passed before the next attempt.
        """
        rehearsed = await _dry_run(kube, sync, secret)
        if _can_pass(error) and rehearsed != error.message:
            return None
        # A copy, because the frames of the raised error contain values.
        return cls(copy.copy(error).bare(), rehearsed, asyncio.get_running_loop().time() + seconds)

    async def raise_if_lasting(self, kube: KubeClient, sync: SecretSync, secret: ObjectMeta | None) -> None:
        """Raise the error if another attempt to write would fail in the same way."""
        if asyncio.get_running_loop().time() < self.until and await _dry_run(kube, sync, secret) == self.rehearsed:
            raise copy.copy(self.error)


def _can_pass(error: errors.ControllerError) -> bool:
    """Return whether the failure can pass by itself. A token that is refused (401) is replaced by a new one."""
    return isinstance(error, errors.Unreachable) or (isinstance(error, errors.KubeError) and error.status == 401)


async def _dry_run(kube: KubeClient, sync: SecretSync, secret: ObjectMeta | None) -> str:
    """Return why the API server refuses the write, or an empty text. Raise `Conflict` as a write does."""
    body = placeholder_write(sync, secret)
    try:
        if secret is None:
            await permissions.SECRETS.create(kube, sync.metadata.namespace, body, dry_run=True)
        else:
            await permissions.SECRETS.merge(kube, secret, body, dry_run=True)
    except (errors.Conflict, errors.NotLeading):
        raise
    except errors.KubeError as error:
        return error.message if error.status else "no answer"
    return ""
