"""Test lines and requests in OTLP, and the verdict about an answer."""

import json
import logging
from http.client import responses
from typing import Any

import pytest

from controller.observability.otlp import wire
from controller.observability.otlp.wire import CollectorAnswer, DeliveryVerdict, judge_answer
from controller.observability.telemetry import JsonLines
from tests.support.canaries import CANARY, FORMS, find_forms
from tests.support.hostile_texts import HOSTILE_JSON
from tests.support.otlp_lines import decode_any_value, make_record

# Lines and requests


def test_otlp_record_has_the_contents_of_the_printed_line() -> None:
    fields: dict[str, Any] = {
        "name": "s",
        "n": 2**60,
        "ok": True,
        "took": 0.5,
        "keys": ["a", "b"],
        "settings": {"x": None, "y": ("z",)},
    }
    record = make_record("synced", **fields)
    line = wire.to_line(record)
    sent = json.loads(line.record)
    printed = json.loads(JsonLines().format(record))
    assert line.logger == printed.pop("logger")
    assert sent["severityText"] == printed.pop("level")
    assert decode_any_value(sent["body"]) == printed.pop("message")
    assert {pair["key"]: decode_any_value(pair["value"]) for pair in sent["attributes"]} == {
        key: value for key, value in printed.items() if key != "time"
    }
    # protobuf's JSON has 64-bit numbers as strings.
    assert sent["timeUnixNano"] == str(round(record.created * 1e6) * 1000)
    assert {"key": "n", "value": {"intValue": str(2**60)}} in sent["attributes"]


@pytest.mark.parametrize(
    ("level", "number"), [("DEBUG", 5), ("INFO", 9), ("WARNING", 13), ("ERROR", 17), ("CRITICAL", 21)]
)
def test_level_has_its_otlp_severity_number(level: str, number: int) -> None:
    sent = json.loads(wire.to_line(make_record(level=logging.getLevelNamesMapping()[level])).record)
    assert sent["severityNumber"] == number


def test_exception_is_an_attribute_of_the_record() -> None:
    try:
        raise ValueError("no value here")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "here.py", 1, "failed", None, (type(error), error, None))
    (pair,) = json.loads(wire.to_line(record).record)["attributes"]
    assert pair == {"key": "exception.stacktrace", "value": {"stringValue": "ValueError: no value here"}}


def test_request_groups_lines_by_logger_in_order() -> None:
    lines = [wire.LogLine("a", b'{"n":1}'), wire.LogLine("b", b'{"n":2}'), wire.LogLine("a", b'{"n":3}')]
    (logs,) = json.loads(wire.build_request(lines, {"service.name": "me"}))["resourceLogs"]
    assert logs["resource"] == {"attributes": [{"key": "service.name", "value": {"stringValue": "me"}}]}
    assert logs["scopeLogs"] == [
        {"scope": {"name": "a"}, "logRecords": [{"n": 1}, {"n": 3}]},
        {"scope": {"name": "b"}, "logRecords": [{"n": 2}]},
    ]


# Verdicts


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_temporary_status_is_retried(status: int) -> None:
    assert judge_answer(CollectorAnswer(status, {}, b""), 3)[:2] == (True, 0)
    assert judge_answer(CollectorAnswer(status, {"Retry-After": "7"}, b""), 3).wait == 7


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 500, 999])
def test_other_status_is_not_retried_and_loses_the_lines(status: int) -> None:
    verdict = judge_answer(CollectorAnswer(status, {"Retry-After": "7"}, b'{"code":3,"message":"too long a name"}'), 3)
    assert verdict[:2] == (False, 3)
    assert f"{status} ({responses.get(status, 'no reason')})" in verdict.why
    assert "logs.otlp.endpoint" in verdict.why


@pytest.mark.parametrize(
    ("body", "lost", "why"),
    [
        (b"", 0, ""),
        (b"not JSON", 0, ""),
        (b"{}", 0, ""),
        (b'{"partialSuccess":{}}', 0, ""),
        (
            b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}',
            2,
            "rejects 2 of 3 lines; its log has the reason",
        ),
        (b'{"partialSuccess":{"rejectedLogRecords":2}}', 2, "rejects 2 of 3"),
        # The collector accepts all lines, and the text is only a warning.
        (b'{"partialSuccess":{"errorMessage":"use a newer version"}}', 0, ""),
        (b'{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"use a newer version"}}', 0, ""),
        (b'{"partialSuccess":{"rejectedLogRecords":"-1","errorMessage":"x"}}', 0, ""),
        (b'{"partialSuccess":{"rejectedLogRecords":"70"}}', 3, "rejects 3 of 3"),
    ],
)
def test_partial_success_counts_the_rejected_lines(body: bytes, lost: int, why: str) -> None:
    verdict = judge_answer(CollectorAnswer(200, {}, body), 3)
    assert (verdict.again, verdict.lost) == (False, lost)
    assert why in verdict.why
    assert bool(why) == bool(verdict.why)
    assert judge_answer(CollectorAnswer(200, {}, b"{}"), 3) == DeliveryVerdict()


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("body", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_body_yields_a_verdict(body: bytes, status: int) -> None:
    verdict = judge_answer(CollectorAnswer(status, {}, body), 3)
    assert (verdict.again, verdict.lost) == (status == 503, 3 if status == 400 else 0)


@pytest.mark.parametrize("form", FORMS)
def test_verdict_quotes_no_text_of_the_collector(form: str) -> None:
    quoted = FORMS[form](CANARY)
    for status in (200, 202, 301, 400, 403, 429, 500, 503):
        for body in (
            {"message": quoted, "code": quoted, "details": [quoted]},
            {"message": quoted},
            {"partialSuccess": {"rejectedLogRecords": 1, "errorMessage": quoted}},
        ):
            headers = {"Retry-After": quoted, "Location": quoted}
            assert not find_forms(judge_answer(CollectorAnswer(status, headers, json.dumps(body).encode()), 3).why)
        assert not find_forms(judge_answer(CollectorAnswer(status, {}, quoted.encode()), 3).why)
