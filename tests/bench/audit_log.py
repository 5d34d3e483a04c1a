"""The audit log of the API server, as much of it as is counted."""

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
    """A line of the audit log. `object_ref` has the place of the object, `stage_timestamp` the time (RFC 3339)."""

    verb: str
    stage: str
    user: _User
    stage_timestamp: str = ""
    object_ref: _Object = msgspec.field(default_factory=_Object)
    response_status: _Answer = msgspec.field(default_factory=_Answer)

    @property
    def resource(self) -> str:
        """Return the resource, with its subresource: `secretsyncs/status`."""
        return "/".join(part for part in (self.object_ref.resource, self.object_ref.subresource) if part)


def is_accepted(code: int) -> bool:
    """Return whether the API server accepted a request, by the HTTP status of its answer."""
    return 200 <= code < 300


def read_lines(log: Path, position: int) -> Iterator[bytes]:
    """Yield the complete lines of a log from a position on."""
    with log.open("rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):
                return  # the API server is still writing it
            yield line


def completed_requests(lines: Iterable[bytes], user: str) -> Iterator[AuditEntry]:
    """Yield the requests of a user that ended.

    Most lines are about other users. They are not decoded, because a measurement must not keep the machine busy.
    """
    for line in lines:
        if user.encode() in line:
            entry = msgspec.json.decode(line, type=AuditEntry)
            if entry.user.username == user and entry.stage == "ResponseComplete":
                yield entry
