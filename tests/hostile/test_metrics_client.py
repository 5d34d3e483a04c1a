"""Test attacks of a program without an account that reaches the pod's ports."""

import socket
import time
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st

from tests.hostile.attack_harness import AttackHarness
from tests.hostile.drawing import draw_attacks
from tests.support.cluster.hostile_inputs import MetricsFlood, measure_probe

CONNECTIONS = 200
SECONDS = 6.0


def test_flood_of_connections_delays_neither_probes_nor_neighbours(harness: AttackHarness) -> None:
    """Open 200 connections that do not read, send slowly or reconnect at once."""
    port = int(harness.controller.env["LISTEN_PORT"])
    probes: list[float] = []
    connections: list[int] = []

    def attack() -> None:
        with MetricsFlood(harness.controller, CONNECTIONS):
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                probes.extend(measure_probe(harness.controller, path) for path in ("/healthz", "/readyz"))
                connections.append(count_connections(port))
                time.sleep(0.2)

    harness.run_beside_neighbours(attack)
    assert max(probes) < 1, probes
    assert max(connections) > CONNECTIONS // 3, f"so few connections reached the controller: {connections}"


def count_connections(port: int) -> int:
    """Return how many connections to this port of 127.0.0.1 are open, from the server's side."""
    local, established = f"0100007F:{port:04X}", "01"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[1] == local and fields[3] == established for fields in lines)


LINES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda method, path, version: f"{method} {path} HTTP/{version}".encode(),
        st.sampled_from(["GET", "HEAD", "POST", "CONNECT", "OPTIONS", "TRACE", "PRI", "get"]),
        st.sampled_from(
            ["/metrics", "/healthz", "/readyz", "*", "//x", "/metrics?" + "x" * 9_000, "/%00", "http://x/metrics"]
        ),
        st.sampled_from(["1.1", "1.0", "0.9", "2.0", "9" * 400]),
    ),
)
HEADERS = st.lists(
    st.sampled_from(
        [b"Host: x", b"Content-Length: 99999999999999999999", b"Content-Length: -1", b"Transfer-Encoding: chunked",
         b"Connection: keep-alive", b"Connection: Upgrade\r\nUpgrade: websocket", b"Expect: 100-continue",
         b"Accept-Encoding: gzip", b"X: " + b"y" * 9_000, b"\x00: \xff", b"Content-Type: multipart/form-data"]
    ),
    max_size=4,
)  # fmt: skip
BODIES = st.sampled_from(
    [b"", b"ffffffffffffffff\r\n", b"x" * 20_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02"]
)


def test_drawn_requests_to_both_ports_delay_no_probe(harness: AttackHarness) -> None:
    """Send raw bytes in two parts to both ports. The controller responds in time or closes the connection."""
    ports = st.sampled_from([int(harness.controller.env[name]) for name in ("LISTEN_PORT", "HEALTH_PORT")])
    slowest, answered = 0.0, set[int]()

    def attack(drawn: tuple[int, bytes, list[bytes], bytes, int]) -> None:
        nonlocal slowest
        port, line, headers, body, cut = drawn
        raw = b"\r\n".join([line, *headers, b"", body])
        with socket.create_connection(("127.0.0.1", port), 5) as connection, suppress(OSError):
            connection.settimeout(0.3)
            connection.sendall(raw[:cut])
            connection.sendall(raw[cut:])
            if connection.recv(2**16):
                answered.add(port)
        slowest = max(slowest, measure_probe(harness.controller, "/healthz"))

    draw_attacks("metrics", st.tuples(ports, LINES, HEADERS, BODIES, st.integers(0, 300)), attack)
    assert len(answered) == 2, f"only the ports {answered} have answered"
    assert slowest < 1, slowest
