"""Convert log lines to OTLP, and interpret the collector's answer. Pure.

Source: opentelemetry-proto, logs.proto and "OTLP/HTTP" of its specification: the JSON mapping of protobuf with 64-bit
numbers as strings; only 429, 502, 503 and 504 can be retried.
"""

import logging
from collections.abc import Iterable, Mapping
from http.client import responses
from typing import Any, NamedTuple, TypeVar

import msgspec

from controller.runtime.backoff import parse_retry_after

PATH = "/v1/logs"
_SEVERITIES = {logging.DEBUG: 5, logging.INFO: 9, logging.WARNING: 13, logging.ERROR: 17, logging.CRITICAL: 21}
_AGAIN = frozenset({429, 502, 503, 504})
_traces = logging.Formatter()
Shape = TypeVar("Shape")


class LogLine(NamedTuple):
    """A log line: the logger that wrote it, and the record as JSON."""

    logger: str
    record: bytes


def to_line(record: logging.LogRecord) -> LogLine:
    """Convert the line of `telemetry.JsonLines`: the message becomes the body, fields become attributes."""
    fields: dict[str, Any] = dict(getattr(record, "fields", {}))
    if record.exc_info:
        fields["exception.stacktrace"] = _traces.formatException(record.exc_info)
    moment = str(round(record.created * 1e6) * 1000)
    found = {
        "timeUnixNano": moment,
        "observedTimeUnixNano": moment,
        "severityNumber": _SEVERITIES.get(record.levelno, 0),
        "severityText": record.levelname.lower(),
        "body": _encode_value(record.getMessage()),
        "attributes": _encode_attributes(fields),
    }
    return LogLine(record.name, msgspec.json.encode(found))


def build_request(lines: Iterable[LogLine], resource: Mapping[str, str]) -> bytes:
    """Return an ExportLogsServiceRequest. `resource` identifies the source of the lines."""
    scopes: dict[str, list[msgspec.Raw]] = {}
    for item in lines:
        scopes.setdefault(item.logger, []).append(msgspec.Raw(item.record))
    logs = [{"scope": {"name": name}, "logRecords": records} for name, records in scopes.items()]
    return msgspec.json.encode(
        {"resourceLogs": [{"resource": {"attributes": _encode_attributes(resource)}, "scopeLogs": logs}]}
    )


def _encode_attributes(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _encode_value(value)} for key, value in fields.items()]


def _encode_value(value: Any) -> dict[str, Any]:
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
            return {"kvlistValue": {"values": _encode_attributes(value)}}
        case list() | tuple():
            return {"arrayValue": {"values": [_encode_value(item) for item in value]}}
    return {"stringValue": str(value)}


class CollectorAnswer(NamedTuple):
    """The collector's answer: HTTP status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class DeliveryVerdict(NamedTuple):
    """The result of a request.

    `again` means to send it again, after `wait` seconds if the collector asks for it. `lost` counts rejected lines.
    `why` is the cause, or empty after a success.
    """

    again: bool = False
    lost: int = 0
    why: str = ""
    wait: float | None = None


class _PartialSuccess(msgspec.Struct, rename="camel"):
    rejected_log_records: int = 0


class _ExportResponse(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess = msgspec.field(default_factory=_PartialSuccess)


def judge_answer(answer: CollectorAnswer, lines: int) -> DeliveryVerdict:
    """Return the result of a request of that many lines. It does not quote the collector's text."""
    if 200 <= answer.status < 300:
        partial = _decode_body(answer.body, _ExportResponse).partial_success
        lost = min(max(partial.rejected_log_records, 0), lines)
        if not lost:
            return DeliveryVerdict()  # an error message without rejected lines is a suggestion to the sender
        return DeliveryVerdict(lost=lost, why=f"the collector rejects {lost} of {lines} lines; its log has the reason")
    why = f"the collector answers {answer.status} ({responses.get(answer.status, 'no reason')})"
    if answer.status in _AGAIN:
        return DeliveryVerdict(again=True, why=why, wait=parse_retry_after(answer.headers))
    return DeliveryVerdict(lost=lines, why=f"{why}; set logs.otlp.endpoint to its OTLP receiver for HTTP")


def _decode_body(body: bytes, shape: type[Shape]) -> Shape:
    try:
        # strict=False, because a number of 64 bits can be a string.
        return msgspec.json.decode(body, type=shape, strict=False)
    except (ValueError, RecursionError):  # among them: no UTF-8, and too deep
        return shape()
