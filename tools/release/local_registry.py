"""The CNCF distribution registry, with its data in a folder, for as long as a block runs."""

import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.local_cluster import ClusterError
from tools.local_cluster.ports import PortClaim
from tools.local_cluster.programs import assets

_START_SECONDS = 30.0


@contextmanager
def serve(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """Run a registry without TLS and credentials; yield its address, `HOST:PORT`."""
    claim = PortClaim()
    address = f"{host}:{claim.port}"
    config = folder / "registry.json"
    config.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
                "http": {"addr": address},
            }
        )
    )
    log = folder / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [assets.tool("registry"), "serve", config], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait_for_registry(process, address, log)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait_for_registry(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise ClusterError(f"the registry does not answer at {address}: {log.read_text(errors='replace').strip()}")
