"""Test reading and writing of timestamps."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from controller.runtime.clock import format_time, latest, parse_time

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2030-01-01T12:00:00Z", NOW),
        ("2030-01-01T13:00:00+01:00", NOW),
        ("2030-01-01T12:00:00.000000Z", NOW),
        ("2030-01-01T12:00:00", NOW),
        ("", None),
        (None, None),
        ("soon", None),
        ("2030-13-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
def test_valid_time_is_parsed_and_invalid_one_is_none(text: str | None, expected: datetime | None) -> None:
    assert parse_time(text) == expected


@pytest.fixture
def use_tokyo_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("use_tokyo_time_zone")
def test_time_without_a_zone_is_utc_in_any_local_time_zone() -> None:
    assert parse_time("2030-01-01T12:00:00") == NOW
    assert format_time(NOW) == "2030-01-01T12:00:00Z"


def test_time_is_formatted_in_utc_with_whole_seconds() -> None:
    elsewhere = (NOW + timedelta(microseconds=999_999)).astimezone(tz=None)
    assert format_time(elsewhere) == "2030-01-01T12:00:00Z"
    assert parse_time(format_time(NOW)) == NOW
    assert format_time(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        pytest.param((), None, id="no times"),
        pytest.param((None, None), None, id="only missing times"),
        pytest.param((NOW, None), NOW, id="one time"),
        pytest.param((NOW, NOW + timedelta(seconds=1)), NOW + timedelta(seconds=1), id="two times"),
        pytest.param((None, NOW, NOW - timedelta(days=1)), NOW, id="the latest is not the last"),
    ],
)
def test_latest_time_is_returned_and_missing_ones_are_ignored(
    moments: tuple[datetime | None, ...], expected: datetime | None
) -> None:
    assert latest(*moments) == expected
