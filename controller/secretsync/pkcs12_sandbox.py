"""Open a PFX in a separate process, from standard input to standard output.

The PFX itself defines how often its password is hashed, up to two thousand million times. Meanwhile, OpenSSL blocks all
threads of the process. Without the separate process, a user who can write into one vault could stop the controller.
"""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from controller.domain import certificates

# Limits for CPU seconds and bytes of memory. Usual files need a tenth: checking a long RSA key takes 0.25 seconds.
CPU_SECONDS = 2
MAX_MEMORY = 512 * 2**20
# Seconds until it is stopped if the machine gives it no CPU.
PATIENCE = 60.0
NICE = 10
# The maximum number of remembered PFX files, by digest, that took too long. Each of them costs its two seconds once.
MAX_GIVEN_UP = 1000
_given_up: dict[bytes, None] = {}
# The folder of this package for the child process.
_ROOT = Path(__file__).parents[2]


def pfx_to_pem(data: bytes, charge: Callable[[float], None] = lambda _: None) -> bytes:
    """Act like `certificates.pfx_to_pem`, but raise `ValueError` for all its errors.

    Raise `TimeoutError` if it takes too long, and another `OSError` if the process did not finish. `charge` receives
    the CPU seconds of the process.
    """
    command = [sys.executable, "-P", "-m", __name__]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    digest = hashlib.sha256(data).digest()
    if digest in _given_up:
        raise TimeoutError
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": path},
            input=data,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        charge(CPU_SECONDS)
        raise TimeoutError from None  # the original error contains the output so far
    charge(_cpu_seconds(done.stderr))
    if done.returncode == -signal.SIGXCPU:
        _given_up[digest] = None
        if len(_given_up) > MAX_GIVEN_UP:
            _given_up.pop(next(iter(_given_up)), None)
        raise TimeoutError
    if done.returncode < 0:
        raise ChildProcessError
    if done.returncode:
        raise ValueError
    return done.stdout


def _cpu_seconds(reported: bytes) -> float:
    """Return the CPU time that the process reported. A process that a signal ended counts as `CPU_SECONDS`."""
    try:
        return min(float(reported), CPU_SECONDS)
    except ValueError:
        return CPU_SECONDS


def main() -> int:
    """Run the child process. The exit code is 1 if the PFX cannot be opened; a signal ends it if it takes too long."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))  # SIGXCPU, then SIGKILL
    try:
        pem = certificates.pfx_to_pem(sys.stdin.buffer.read())
    except Exception:
        return 1
    finally:
        sys.stderr.write(f"{time.process_time():.3f}")
    sys.stdout.buffer.write(pem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
