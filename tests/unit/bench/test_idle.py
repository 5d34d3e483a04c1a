"""Test the conversion of a window into the figures of an hour."""

import json

import pytest

from tests.bench.idle import Window, convert_to_hour, count_requests

USER = "system:serviceaccount:home:controller"


def format_audit_line(
    verb: str, resource: str, sub: str = "", user: str = USER, stage: str = "ResponseComplete"
) -> bytes:
    object_ref = {"resource": resource, "subresource": sub, "name": "x"}
    return (
        json.dumps({"verb": verb, "stage": stage, "user": {"username": user}, "objectRef": object_ref}).encode() + b"\n"
    )


def test_requests_of_the_controller_are_counted_once_each() -> None:
    lines = [
        format_audit_line("patch", "leases"),
        format_audit_line("patch", "secretsyncs", "status"),
        format_audit_line("patch", "secretsyncs", "status"),
        format_audit_line("watch", "secretsyncs", stage="ResponseStarted"),
        format_audit_line("watch", "secretsyncs"),
        format_audit_line("patch", "secrets", user="another"),
        format_audit_line("patch", "secrets", user=f"{USER}-2"),
    ]
    assert count_requests(lines, USER) == {
        ("patch", "leases"): 1,
        ("patch", "secretsyncs/status"): 2,
        ("watch", "secretsyncs"): 1,
    }


def test_hour_has_one_poll_if_the_window_has_three() -> None:
    requests = {("patch", "leases"): 8, ("patch", "secretsyncs/status"): 3, ("patch", "secrets"): 400, ("get", "x"): 1}
    found = convert_to_hour(Window(120.0, 3, requests, 2.0), 1200, 3600.0)
    assert found["statuses that record a poll"] == 1
    assert found["statuses that are written once a day"] == 50
    assert found["renewals of the Lease"] == 240
    assert found["writes in all"] == 291
    assert found["empty patches (each an UPDATE to admission webhooks)"] == 12_000
    assert found["lines of the audit log (one a request)"] == 412 * 30
    assert found["KiB written by the database"] == 60


@pytest.mark.parametrize(("interval", "statuses"), [(3600.0, 2), (7200.0, 1), (900.0, 8)])
def test_statuses_of_polls_follow_the_interval(interval: float, statuses: float) -> None:
    window = Window(60.0, 1, {("patch", "secretsyncs/status"): 2}, 0.0)
    assert convert_to_hour(window, 0, interval)["statuses that record a poll"] == statuses
