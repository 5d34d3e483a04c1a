"""Read the audit log of the API server, with the fields that the measurements count."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

WRITES = ("create", "patch", "update", "delete")


class _User(msgspec.Struct):
    username: str


class _Object(msgspec.Struct):
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _Answer(msgspec.Struct):
    code: int = 0


class AuditEntry(msgspec.Struct, rename="camel"):
    """A line of the audit log. `object_ref` identifies the object. `stage_timestamp` is the time (RFC 3339)."""

    verb: str
    stage: str
    user: _User
    stage_timestamp: str = ""
    object_ref: _Object = msgspec.field(default_factory=_Object)
    response_status: _Answer = msgspec.field(default_factory=_Answer)

    @property
    def resource(self) -> str:
        """Return the resource with its subresource, for example `secretsyncs/status`."""
        return "/".join(part for part in (self.object_ref.resource, self.object_ref.subresource) if part)


def is_accepted(code: int) -> bool:
    """Return whether the API server accepted a request that it answered with this HTTP status."""
    return 200 <= code < 300


def read_lines(log: Path, position: int) -> Iterator[bytes]:
    """Yield the complete lines of a log after a position in bytes."""
    with log.open("rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):
                return  # the API server is still writing it
            yield line


def read_completed_requests(lines: Iterable[bytes], user: str) -> Iterator[AuditEntry]:
    """Yield the completed requests of a user.

    Most lines are about other users. This function does not decode them, because a measurement must not keep the
    machine busy.
    """
    for line in lines:
        if user.encode() in line:
            entry = msgspec.json.decode(line, type=AuditEntry)
            if entry.user.username == user and entry.stage == "ResponseComplete":
                yield entry
