"""Test the comparison with a peer: the order of the runs, the templates, and the counted requests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.bench import compare
from tests.bench.compare import (
    OURS,
    PEER,
    SETTLE_SECONDS,
    ControllerEnded,
    TemplateError,
    Trial,
    fill_template,
    format_table,
    main,
    order_sides,
    read_traffic,
)
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace

USER = "system:serviceaccount:peer:peer"
THIS = Path(__file__).parents[2] / "bench/peers/this"


@pytest.mark.parametrize("runs", [1, 2, 3, 4])
def test_both_sides_alternate(runs: int) -> None:
    sides = order_sides(runs)
    assert sides.count(OURS) == sides.count(PEER) == runs
    # At any moment, neither side has two measurements more than the other.
    for number in range(len(sides)):
        done = sides[: number + 1]
        assert abs(done.count(OURS) - done.count(PEER)) <= 1
    assert runs < 2 or sides[0] != sides[2]


def test_controller_that_ended_ends_the_wait_at_once() -> None:
    def raise_if_ended() -> None:
        raise ControllerEnded("exit code 3")

    trial = Trial(cast("InstalledRelease", None), cast("Namespace", None), ["a"], USER, 0, raise_if_ended)
    with pytest.raises(ControllerEnded, match="exit code 3"):
        trial.wait_secrets(["a"], "first")


def test_variables_are_filled_in() -> None:
    assert fill_template("a: $NAME-${NAME}x, $5, $(cmd)", {"NAME": "s1"}) == "a: s1-s1x, $5, $(cmd)"


def test_unknown_variable_is_refused_by_its_name() -> None:
    with pytest.raises(TemplateError, match=r"^\$NAMES is not known; known are NAME, VAULT$"):
        fill_template("$NAME $NAMES", {"VAULT": "v", "NAME": "n"})


def format_audit_line(verb: str, resource: str, name: str, code: int = 200, **more: Any) -> bytes:
    entry: Mapping[str, Any] = {
        "verb": verb,
        "stage": "ResponseComplete",
        "user": {"username": USER},
        "objectRef": {"resource": resource, "namespace": "shop", "name": name},
        "responseStatus": {"code": code},
    }
    return json.dumps({**entry, **more}).encode()


def test_writes_of_the_peer_are_counted_and_its_secrets_named() -> None:
    lines = [
        format_audit_line("create", "secrets", "a", 201),
        format_audit_line("update", "secrets", "a"),
        format_audit_line("patch", "externals", "a"),
        format_audit_line("get", "secrets", "b"),
        format_audit_line("create", "secrets", "c", 409),
        format_audit_line(
            "create", "", "", 201, objectRef={"resource": "serviceaccounts", "subresource": "token", "name": "shop"}
        ),
        format_audit_line("create", "secrets", "d", stage="ResponseStarted"),
        format_audit_line("create", "secrets", "e", user={"username": f"{USER}-2"}),
        format_audit_line(
            "create", "secrets", "f", objectRef={"resource": "secrets", "namespace": "other", "name": "f"}
        ),
    ]
    found = read_traffic(lines, USER, "shop")
    assert (found.writes, sorted(found.secrets)) == (4, ["a"])


class FakeCluster:
    """A cluster whose clock advances only in `sleep`, and whose database writes a KiB a second.

    The controller writes a Secret `delay` seconds after its value was set. It writes two events a second.
    """

    name = vault = "shop"

    def __init__(self, folder: Path, delay: float = 0.0, events: int = 0) -> None:
        self.audit_log = folder / "audit.log"
        self.audit_log.touch()
        self.now = 100.0
        self.values: dict[str, str] = {}
        self.plane = self.emulator = self
        self.delay = delay
        self.calls = 0
        self._pending = [(self.now + delay, "secrets", "a", "first")]
        self._pending += [(self.now + 0.5 * number, "events", f"e{number}", "") for number in range(events)]

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for item in [item for item in self._pending if item[0] <= self.now]:
            self._pending.remove(item)
            self._write(*item[1:])

    def _write(self, resource: str, name: str, text: str) -> None:
        self.calls += 1
        with self.audit_log.open("ab") as log:
            log.write(format_audit_line("patch", resource, name) + b"\n")
        if resource == "secrets":
            self.values[name] = text

    def set_secret(self, name: str, text: str) -> None:
        if self.delay:
            self._pending.append((self.now + self.delay, "secrets", name, text))
        else:  # the controller polls just now
            self._write("secrets", name, text)

    def secret_values(self, name: str) -> Mapping[str, str]:
        return {"key": self.values.get(name, "")}

    def reset_counters(self) -> None:
        self.calls = 0

    def counters(self) -> Mapping[str, int]:
        return {"shop/secrets.get/200": self.calls, "other/secrets.get/200": 5}


def measure_fake(world: FakeCluster, monkeypatch: pytest.MonkeyPatch, interval: float) -> Mapping[str, float]:
    monkeypatch.setattr(compare, "time", world)
    monkeypatch.setattr(compare, "database_kibibytes", lambda _: world.now)
    installed, space = cast("InstalledRelease", world), cast("Namespace", world)
    return Trial(installed, space, ["a"], USER, -1, lambda: None).measure(world.now, interval)


@pytest.mark.parametrize("delay", [0.0, 3.0, 28.0])
def test_windows_with_and_without_a_change_have_one_length(
    delay: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure_fake(FakeCluster(tmp_path, delay), monkeypatch, 40.0)
    assert found["40 s without a change: KiB written by the database"] == 40
    assert found["1 changed: KiB written by the database"] == pytest.approx(40)
    assert found["1 changed: writes to the API server"] == found["1 changed: calls to vault and Entra"] == 1
    assert found["40 s without a change: writes to the API server"] == 0


def test_window_of_a_slow_controller_ends_after_its_last_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure_fake(FakeCluster(tmp_path, delay=60.0), monkeypatch, 40.0)
    took = found["1 changed: all Secrets have it, s (poll every 40 s)"]
    assert took == pytest.approx(60.0, abs=0.3)
    assert found["1 changed: KiB written by the database"] == pytest.approx(took + SETTLE_SECONDS)


@pytest.mark.parametrize(("events", "writes", "seconds"), [(1, 2, 5.2), (40, 41, 25.2), (400, 82, 40.2)])
def test_first_sync_ends_when_the_writes_end_or_after_an_interval(
    events: int, writes: int, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure_fake(FakeCluster(tmp_path, events=events), monkeypatch, 40.0)
    assert found["first sync: KiB written by the database"] == pytest.approx(seconds)
    assert found["first sync: writes to the API server"] == writes


def test_table_has_medians_and_all_runs() -> None:
    lines = list(format_table({"one": [{"x": 3.0}, {"x": 1.0}, {"x": 2.0, "y": 1234.5}], "two": [{"x": 7.0}]}))
    assert lines == [
        "| what | one | two |",
        "| --- | --- | --- |",
        "| x | 2 (3, 1, 2) | 7 (7) |",
        "| y | 1,234 (1,234) | - |",
    ]


@pytest.mark.parametrize(
    ("each", "mode", "message"),
    [
        ("name: $NAME", 0o644, "is not an executable: chmod +x"),
        ("name: fixed", 0o755, "does not have $NAME"),
        (None, 0o755, "No such file"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    each: str | None, mode: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, file = tmp_path / "start", tmp_path / "each.yaml"
    start.touch(mode=mode)
    if each is not None:
        file.write_text(each)
    with pytest.raises(SystemExit) as ended:
        main(["--start", str(start), "--each", str(file)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("given", "database"), [([], "etcd"), (["--database", "sqlite"], "sqlite")])
def test_both_sides_run_with_the_given_database(
    given: list[str], database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def record_cluster(_: Path, **options: Any) -> None:
        started.append(options["database"])
        raise ControllerEnded("not started")

    monkeypatch.setattr(compare, "cluster", record_cluster)
    for side in (OURS, PEER):
        monkeypatch.setattr(compare, "order_sides", lambda _, side=side: [side])
        assert main(["--start", str(THIS / "start"), "--each", str(THIS / "each.yaml"), *given]) == 1
    assert started == [database, database]
    assert "not started" in capsys.readouterr().err


def test_example_uses_only_known_variables() -> None:
    known = dict.fromkeys(("NAME", "NAMESPACE", "SERVICE_ACCOUNT", "CLIENT_ID", "TENANT_ID", "VAULT"), "x")
    assert "$" not in fill_template((THIS / "each.yaml").read_text(), known)
    assert (THIS / "start").stat().st_mode & 0o111
