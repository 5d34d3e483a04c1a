"""Log lines as OTLP has them, and what the collector's answer means. Pure.

Source: opentelemetry-proto, logs.proto and "OTLP/HTTP" of its specification: the JSON mapping of protobuf with 64-bit
numbers as strings; 429, 502, 503 and 504 may be asked again, nothing else.
"""

import logging
from collections.abc import Iterable, Mapping
from http.client import responses
from typing import Any, NamedTuple, TypeVar

import msgspec

from controller.schedule import asked_to_wait
from controller.telemetry import shorten

PATH = "/v1/logs"
_SEVERITIES = {logging.DEBUG: 5, logging.INFO: 9, logging.WARNING: 13, logging.ERROR: 17, logging.CRITICAL: 21}
_AGAIN = frozenset({429, 502, 503, 504})
_traces = logging.Formatter()
Shape = TypeVar("Shape")


class Line(NamedTuple):
    """A log line: the logger that it comes from, and the record as JSON."""

    logger: str
    record: bytes


def line(record: logging.LogRecord) -> Line:
    """What `telemetry.JsonLines` prints: the message as the body, fields as attributes."""
    fields: dict[str, Any] = dict(getattr(record, "fields", {}))
    if record.exc_info:
        fields["exception.stacktrace"] = _traces.formatException(record.exc_info)
    moment = str(round(record.created * 1e6) * 1000)
    found = {
        "timeUnixNano": moment,
        "observedTimeUnixNano": moment,
        "severityNumber": _SEVERITIES.get(record.levelno, 0),
        "severityText": record.levelname.lower(),
        "body": _value(record.getMessage()),
        "attributes": _attributes(fields),
    }
    return Line(record.name, msgspec.json.encode(found))


def request(lines: Iterable[Line], resource: Mapping[str, str]) -> bytes:
    """An ExportLogsServiceRequest; `resource` says whose lines they are."""
    scopes: dict[str, list[msgspec.Raw]] = {}
    for item in lines:
        scopes.setdefault(item.logger, []).append(msgspec.Raw(item.record))
    logs = [{"scope": {"name": name}, "logRecords": records} for name, records in scopes.items()]
    return msgspec.json.encode(
        {"resourceLogs": [{"resource": {"attributes": _attributes(resource)}, "scopeLogs": logs}]}
    )


def _attributes(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in fields.items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case Mapping():
            return {"kvlistValue": {"values": _attributes(value)}}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": str(value)}


class Answer(NamedTuple):
    """What the collector said."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Verdict(NamedTuple):
    """What came of a request: whether to send it again, or else how many of its lines are lost; and why."""

    again: bool = False
    lost: int = 0
    why: str = ""
    wait: float | None = None


class _Partial(msgspec.Struct, rename="camel"):
    rejected_log_records: int = 0
    error_message: str = ""


class _Success(msgspec.Struct, rename="camel"):
    partial_success: _Partial = msgspec.field(default_factory=_Partial)


class _Failure(msgspec.Struct):
    message: str = ""


def judge(answer: Answer, lines: int) -> Verdict:
    """The verdict on a request of that many lines."""
    if 200 <= answer.status < 300:
        partial = _read(answer.body, _Success).partial_success
        if not (partial.rejected_log_records or partial.error_message):
            return Verdict()
        lost = min(max(partial.rejected_log_records, 0), lines)
        return Verdict(lost=lost, why=f"the collector rejects {lost} of {lines}: {shorten(partial.error_message)}")
    said = shorten(_read(answer.body, _Failure).message) or responses.get(answer.status, "no reason")
    why = f"the collector answers {answer.status} ({said})"
    if answer.status in _AGAIN:
        return Verdict(again=True, why=why, wait=asked_to_wait(answer.headers))
    return Verdict(lost=lines, why=f"{why}; is logs.otlp.endpoint its OTLP receiver for HTTP?")


def _read(body: bytes, shape: type[Shape]) -> Shape:
    try:
        # strict=False: a number of 64 bits may come as a string.
        return msgspec.json.decode(body, type=shape, strict=False)
    except msgspec.DecodeError:
        return shape()
