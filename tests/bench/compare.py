"""Compare another controller with this one, on the same vault, API server and machine.

    python -m tests.bench.compare --start START --each EACH.yaml [--shared SHARED.yaml] [--prepare PREPARE]
        [--database etcd|sqlite]

The other controller, the peer, comes from your own checkout. This repository contains no part of it. You provide:

- START: an executable that starts the peer and runs until SIGTERM. It should end with `exec` of the peer.
- EACH.yaml: the peer's custom resources for one Secret. The program applies them once for each secret of the vault,
  server-side. So they have no annotation with a second copy of themselves, which the database would store, too.
- SHARED.yaml: resources that all of these use, such as a store. The program applies them once.
- PREPARE: an executable that installs the peer's CustomResourceDefinitions. It runs once in each new cluster.

Both files and the environments of both executables have these variables:

    NAMESPACE        the namespace of the resources and Secrets
    SERVICE_ACCOUNT  a ServiceAccount in it, federated with the identity CLIENT_ID of TENANT_ID
    VAULT, VAULT_URL the name and the address of the vault
    AUTHORITY        Entra's address
    CA_FILE          the certificates to trust for both (SSL_CERT_FILE of programs in Go)
    INTERVAL         seconds between two polls of the vault
    NAME             (in EACH.yaml) the secret in the vault; the Secret must have the same name
    KUBECONFIG       (in the environment) a ServiceAccount of the peer, with all rights
    PYTHON           (in the environment) the interpreter that runs this program

Each run starts a new cluster for each controller. The two controllers alternate, so that other work of the machine
affects both alike. The output has the median of the runs, and the figure of each run.

CPU, writes, calls and KiB are measured in three windows:

- the first sync: from the start until the controller has stopped writing, because it writes statuses and events after
  the Secrets. If it does not stop, the window ends an interval after the start;
- an interval in which nothing changes;
- an interval at whose beginning some values change. A controller that needs longer has a longer window.

The KiB are `write_bytes` in /proc/PID/io of the database's process. etcd syncs each write to disk, as in production. A
database also writes while no client uses it. The last two windows have the same length, so their difference is the cost
of the changes. A request for a token is not a write, because the API server does not store tokens.

This controller has the chart's leader election. It makes no drift checks: tests.bench.idle counts them.

tests/bench/peers/this starts this controller as the peer, which shows how much the figures of two equal controllers
differ. After `make assets`, run:

    .venv/bin/python -m tests.bench.compare --count 100 --interval 20 \
      --start tests/bench/peers/this/start --each tests/bench/peers/this/each.yaml

The script starts the controller of its own checkout. To compare with an older commit, use the script of that commit:

    git worktree add build/older COMMIT
    .venv/bin/python -m tests.bench.compare --count 1000 \
      --start build/older/tests/bench/peers/this/start --each tests/bench/peers/this/each.yaml
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.audit_log import WRITES, is_accepted, read_completed_requests, read_lines
from tests.bench.harness import (
    CHART_ELECTION,
    DATABASES,
    NEVER,
    BenchHarness,
    Shape,
    cluster,
    database_kibibytes,
)
from tests.bench.results import Figures
from tests.support.cluster.harness import TENANT, InstalledRelease
from tests.support.cluster.namespace import Namespace
from tests.support.process_stats import cpu_seconds, resident_mebibytes, stat_fields

PEER = "peer"
OURS = "this controller"
TIMEOUT_SECONDS = 900.0
ROTATED = 100
# A controller has stopped writing if it writes less than twice in this time. It may renew a Lease.
SETTLE_SECONDS = 5.0
# A request to create one of these stores nothing.
UNSTORED = "serviceaccounts/token"
_VARIABLE = re.compile(r"\$(?:\{([A-Z_]+)\}|([A-Z_]+))")


class TemplateError(Exception):
    """A file of resources has an unknown variable, which the message names."""


class ControllerEnded(Exception):  # noqa: N818 -- the name says what happened to the process
    """A controller ended during its run. The message has the end of its log."""


class Peer(NamedTuple):
    """The command that starts the peer, and its resources."""

    start: Path
    prepare: Path | None
    each: str
    shared: str


def fill_template(template: str, variables: Mapping[str, str]) -> str:
    """Return the template with the value of each `$VARIABLE`. Raise `TemplateError` for an unknown one."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in variables:
            raise TemplateError(f"${name} is not known; known are {', '.join(sorted(variables))}")
        return variables[name]

    return _VARIABLE.sub(value, template)


def order_sides(runs: int) -> list[str]:
    """Return the order of the measurements: both sides in each run, and the last side of a run first in the next."""
    return [side for number in range(runs) for side in ((OURS, PEER) if number % 2 == 0 else (PEER, OURS))]


class Traffic(NamedTuple):
    """The number of writes of a user of the API server, and the names of the Secrets that it wrote in one namespace."""

    writes: int
    secrets: frozenset[str]


def read_traffic(lines: Iterable[bytes], user: str, namespace: str) -> Traffic:
    """Return the accepted writes of a user, from lines of the audit log."""
    writes, secrets = 0, set()
    for entry in read_completed_requests(lines, user):
        if entry.verb not in WRITES or entry.resource == UNSTORED or not is_accepted(entry.response_status.code):
            continue
        writes += 1
        if (entry.object_ref.resource, entry.object_ref.namespace) == ("secrets", namespace):
            secrets.add(entry.object_ref.name)
    return Traffic(writes, frozenset(secrets))


def format_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """Yield the lines of a Markdown table: for each figure the median of each side, with all runs in brackets."""
    sides = list(found)
    yield f"| what | {' | '.join(sides)} |"
    yield f"| --- |{' --- |' * len(sides)}"
    for name in dict.fromkeys(name for runs in found.values() for run in runs for name in run):
        cells = []
        for side in sides:
            values = [run[name] for run in found[side] if name in run]
            shown = ", ".join(f"{value:,.4g}" for value in values)
            cells.append(f"{statistics.median(values):,.4g} ({shown})" if values else "-")
        yield f"| {name} | {' | '.join(cells)} |"


def _list_session(leader: int) -> list[int]:
    """Return the ids of the processes of a session: a script, and the processes that it started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = stat_fields(int(folder.name))
            except OSError:  # it has ended
                continue
            if int(fields[3]) == leader:
                found.append(int(folder.name))
    return found


class Trial:
    """One controller in one cluster: a first sync, a window without a change, and a rotation."""

    def __init__(
        self,
        installed: InstalledRelease,
        space: Namespace,
        names: Sequence[str],
        user: str,
        leader: int,
        raise_if_ended: Callable[[], None],
    ) -> None:
        self._installed = installed
        self._space = space
        self._names = names
        self._user = user
        self._leader = leader
        self._raise_if_ended = raise_if_ended
        self._position = 0
        self._traffic = Traffic(0, frozenset())
        self._cpu = 0.0
        self._written = 0.0

    def reset(self) -> None:
        """Start all counts again."""
        self._installed.emulator.reset_counters()
        self._position = self._installed.plane.audit_log.stat().st_size
        self._traffic = Traffic(0, frozenset())
        self._cpu = self.read_cpu_seconds()
        self._written = database_kibibytes(self._installed)

    def read_traffic(self) -> Traffic:
        """Return the controller's writes since the last `reset`. Read only new lines: a slow controller has many."""
        lines = list(read_lines(self._installed.plane.audit_log, self._position))
        self._position += sum(map(len, lines))
        new = read_traffic(lines, self._user, self._space.name)
        self._traffic = Traffic(self._traffic.writes + new.writes, self._traffic.secrets | new.secrets)
        return self._traffic

    def count_calls(self) -> int:
        """Return the number of calls to the vault and Entra since the last `reset`."""
        places = (self._space.vault, "entra")
        return sum(n for what, n in self._installed.emulator.counters().items() if what.split("/")[0] in places)

    def read_cpu_seconds(self) -> float:
        """Return the CPU seconds of the controller's processes."""
        return sum(cpu_seconds(pid) for pid in _list_session(self._leader))

    def read_mebibytes(self) -> float:
        """Return the resident memory of the controller's processes in MiB."""
        return sum(resident_mebibytes(pid) for pid in _list_session(self._leader))

    def wait_secrets(self, names: Sequence[str], text: str) -> None:
        """Wait until the Secrets of these names have this value."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        missing = list(names)
        while missing:
            self._raise_if_ended()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"after {TIMEOUT_SECONDS:g} s {len(missing)} Secrets are missing, such as {missing[0]}"
                )
            written = self.read_traffic().secrets
            missing = [name for name in missing if name not in written or not self._has(name, text)]
            time.sleep(0.2 if missing else 0)

    def _has(self, name: str, text: str) -> bool:
        return any(text in value for value in self._space.secret_values(name).values())

    def wait_settled(self, deadline: float) -> None:
        """Wait until the controller has stopped writing, or until the deadline."""
        while True:
            before = self.read_traffic().writes
            time.sleep(SETTLE_SECONDS)
            if self.read_traffic().writes - before < 2 or time.monotonic() > deadline:
                return

    def measure(self, began: float, interval: float) -> dict[str, float]:
        """Measure all figures. `began` is the time at which the controller was started."""
        found = Figures("")
        self.reset()
        _report_step(f"waiting for {len(self._names)} Secrets")
        self.wait_secrets(self._names, "first")
        found.note("first sync: all Secrets exist, s after the start", time.monotonic() - began)
        self.wait_settled(began + interval)
        self._note_window(found, "first sync")
        _report_step(f"waiting for two intervals of {interval:g} s")
        time.sleep(interval)  # objects that changed less than two seconds before they were read are read again
        self.reset()
        time.sleep(interval)
        self._note_window(found, f"{interval:g} s without a change")
        found.note("resident memory, MiB", self.read_mebibytes())
        changed = self._names[:ROTATED]
        _report_step(f"waiting for {len(changed)} changed values")
        self.reset()  # before the changes: the controller may write the first Secrets before the last change
        window_ends = time.monotonic() + interval
        for name in changed:
            self._space.set_secret(name, "second")
        changed_at = time.monotonic()
        self.wait_secrets(changed, "second")
        now = time.monotonic()
        found.note(f"{len(changed)} changed: all Secrets have it, s (poll every {interval:g} s)", now - changed_at)
        time.sleep(max(window_ends - now, SETTLE_SECONDS))
        self._note_window(found, f"{len(changed)} changed")
        return found.figures

    def _note_window(self, found: Figures, window: str) -> None:
        """Record what the controller and the database have done since the last `reset`."""
        found.note(f"{window}: CPU, s", self.read_cpu_seconds() - self._cpu)
        found.note(f"{window}: writes to the API server", self.read_traffic().writes)
        found.note(f"{window}: calls to vault and Entra", self.count_calls())
        found.note(f"{window}: KiB written by the database", database_kibibytes(self._installed) - self._written)


def _report_step(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


@contextmanager
def _running_peer(
    peer: Peer, installed: InstalledRelease, space: Namespace, interval: float, folder: Path, count: int
) -> Iterator[tuple[Trial, float]]:
    """Apply the peer's resources and run it. Yield its trial, and the time at which it was started."""
    plane, emulator = installed.plane, installed.emulator
    variables = {
        "NAMESPACE": space.name,
        "SERVICE_ACCOUNT": space.account,
        "CLIENT_ID": space.client,
        "TENANT_ID": TENANT,
        "VAULT": space.vault,
        "VAULT_URL": emulator.vault_pattern.replace("{vault}", space.vault),
        "AUTHORITY": emulator.authority,
        "CA_FILE": str(emulator.ca_file),
        "INTERVAL": f"{interval:g}",
        "PYTHON": sys.executable,
    }
    plane.kubectl("create", "namespace", PEER)
    plane.kubectl("create", "serviceaccount", PEER, "--namespace", PEER)
    plane.kubectl(
        "create", "clusterrolebinding", PEER, "--clusterrole=cluster-admin", f"--serviceaccount={PEER}:{PEER}"
    )
    kubeconfig = plane.service_account_kubeconfig(PEER, PEER)
    env = {**os.environ, **variables, "KUBECONFIG": str(kubeconfig), "FOLDER": str(folder)}
    if peer.prepare:
        subprocess.run([peer.prepare], env={**env, "KUBECONFIG": str(plane.kubeconfig)}, check=True)
    texts = [fill_template(peer.shared, variables)] if peer.shared else []
    texts += [fill_template(peer.each, {**variables, "NAME": name}) for name in Shape(count).names()]
    apply = ("apply", "--server-side", "--force-conflicts", "--filename", "-")
    plane.kubectl(*apply, stdin="\n---\n".join(texts), timeout=TIMEOUT_SECONDS)
    time.sleep(SETTLE_SECONDS)  # the database writes the last of them
    with (folder / "peer.log").open("wb") as log:
        began = time.monotonic()
        running = subprocess.Popen([peer.start], env=env, stdout=log, stderr=log, start_new_session=True)

        def raise_if_ended() -> None:
            if running.poll() is not None:
                shown = (folder / "peer.log").read_text(errors="replace")[-2000:]
                raise ControllerEnded(f"the peer ended with exit code {running.returncode}; its log:\n{shown}")

        user = f"system:serviceaccount:{PEER}:{PEER}"
        try:
            yield Trial(installed, space, Shape(count).names(), user, running.pid, raise_if_ended), began
        finally:
            for pid in _list_session(running.pid):
                os.kill(pid, signal.SIGTERM)
            running.wait(30)


def run_trial(side: str, peer: Peer, shape: Shape, interval: float, database: str) -> dict[str, float]:
    """Measure one side once, in a new cluster. Return the figures."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        installed = stack.enter_context(cluster(folder, database=database, durable=True, leaderElection=CHART_ELECTION))
        if side == OURS:
            harness = BenchHarness(installed, shape)
            settings = {"ROTATION_POLL_INTERVAL": f"{interval:g}", "DRIFT_INTERVAL": str(NEVER)}
            harness.workload.env.update(settings)
            time.sleep(SETTLE_SECONDS)  # the database writes the last of the objects
            began = time.monotonic()
            harness.workload.start()
            stack.callback(harness.workload.kill)

            def raise_if_ended() -> None:
                if not harness.workload.running:
                    raise ControllerEnded(f"this controller ended; its log:\n{harness.workload.tail()}")

            leader = harness.workload.pid
            run = Trial(installed, harness.space, shape.names(), installed.user, leader, raise_if_ended)
            return run.measure(began, interval)
        space = Namespace(installed)
        for secret in shape.names():
            space.set_secret(secret, "first")
        installed.emulator.delay(shape.latency)
        run, began = stack.enter_context(_running_peer(peer, installed, space, interval, folder, shape.count))
        return run.measure(began, interval)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both sides alternately, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=Path, required=True, help="executable that starts the peer")
    parser.add_argument("--each", type=Path, required=True, help="the peer's resources for one Secret, with $NAME")
    parser.add_argument("--shared", type=Path, help="resources that all of these use")
    parser.add_argument("--prepare", type=Path, help="executable that installs the peer's definitions")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="secrets (default: 1000)")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds of a vault call (default: 0)")
    parser.add_argument("--interval", type=float, default=60, metavar="S", help="seconds between polls (default: 60)")
    parser.add_argument("--database", choices=DATABASES, default="etcd", help="default: etcd")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each side (default: 3)")
    options = parser.parse_args(arguments)
    for path in (options.start, options.prepare):
        if path and not os.access(path, os.X_OK):
            parser.error(f"{path} is not an executable: chmod +x {path}")
    try:
        each, shared = options.each.read_text(), options.shared.read_text() if options.shared else ""
    except OSError as error:
        parser.error(str(error))
    if "$NAME" not in each and "${NAME}" not in each:
        parser.error(f"{options.each} does not have $NAME: each secret needs resources of its own")
    peer = Peer(options.start.absolute(), options.prepare and options.prepare.absolute(), each, shared)
    found: dict[str, list[dict[str, float]]] = {OURS: [], PEER: []}
    for side in order_sides(options.runs):
        print(side, file=sys.stderr, flush=True)
        try:
            shape = Shape(options.count, options.latency)
            found[side].append(run_trial(side, peer, shape, options.interval, options.database))
        except (ControllerEnded, TimeoutError, TemplateError) as error:
            print(f"tests.bench.compare: {error}", file=sys.stderr)
            return 1
    print("\n".join(format_table(found)))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the peer has a session of its own
    sys.exit(main())
