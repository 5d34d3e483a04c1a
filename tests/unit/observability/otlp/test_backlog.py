"""Test the number and the memory of log lines that wait for a collector."""

import json
import tracemalloc

import pytest

from controller.observability.otlp import backlog
from controller.observability.otlp.backlog import LogBacklog
from tests.support.otlp_lines import decode_any_value, make_record


def test_full_backlog_drops_the_oldest_lines() -> None:
    dropped = []
    waiting = LogBacklog(lambda: dropped.append(1), max_bytes=5_000)
    for number in range(100):
        waiting.handle(make_record(f"line {number}"))
    assert len(waiting) + len(dropped) == 100
    assert 5 < len(waiting) < 20
    lines = waiting.take_lines()
    assert [f"line {number}" for number in range(100 - len(lines), 100)] == [
        decode_any_value(json.loads(line.record)["body"]) for line in lines
    ]
    assert len(waiting) == 0
    assert waiting.take_lines() == []
    # The backlog has its whole capacity again.
    for number in range(len(lines)):
        waiting.handle(make_record(f"line {number}"))
    assert len(waiting) == len(lines)


def test_waiting_lines_use_at_most_the_allowed_memory() -> None:
    waiting = LogBacklog(lambda: None)
    tracemalloc.start()
    try:
        for number in range(30_000):
            waiting.handle(make_record(f"line {number}", name="some-namespace/some-name"))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(waiting) < 20_000
    assert used < backlog.MAX_BYTES


def test_request_has_all_lines_that_fit_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "BATCH_BYTES", 5_000)
    waiting = LogBacklog(lambda: None)
    for text in ["x" * 10_000, *(f"{number}" for number in range(30))]:
        waiting.handle(make_record(text))
    sizes = []
    while lines := waiting.take_lines():
        sizes.append(len(lines))
    assert sizes[0] == 1
    assert sum(sizes) == 31
    assert 1 < max(sizes[1:]) < 30


def test_line_that_cannot_be_formatted_does_not_stop_others(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = LogBacklog(lambda: None)
    broken = make_record("%d of them")
    broken.args = ("no number",)
    waiting.handle(broken)
    waiting.handle(make_record())
    assert len(waiting) == 1
    assert "no number" in capsys.readouterr().err
