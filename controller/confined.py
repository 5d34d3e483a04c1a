"""A PFX, opened in a process of its own: `python -m controller.confined`, from standard input to standard output.

How often a password is hashed before a PFX opens stands in the PFX, up to two thousand million times, and while OpenSSL
does that nothing else runs in its process. Whoever may write into one vault would so hold up everybody's.
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

from controller import certificates

# Seconds of CPU and bytes of memory. Opening takes a tenth of that: a long RSA key's check a quarter of a second.
CPU_SECONDS = 2
MOST_MEMORY = 512 * 2**20
# Where the machine gives it no CPU either.
PATIENCE = 60.0
NICE = 10
# What took too long is not tried again, so that it costs its two seconds once; by digest, the last so many.
MOST_GIVEN_UP = 1000
_given_up: dict[bytes, None] = {}
# Where the child finds this package, however this process found it.
_ROOT = Path(__file__).parents[1]


def pem_of_pfx(data: bytes, charge: Callable[[float], None] = lambda _: None) -> bytes:
    """As `certificates.pem_of_pfx`: `ValueError` where that fails, `TimeoutError` where it takes too long.

    `charge` gets the seconds of CPU that the process took.
    """
    words = [sys.executable, "-P", "-m", __name__]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    digest = hashlib.sha256(data).digest()
    if digest in _given_up:
        raise TimeoutError
    try:
        done = subprocess.run(
            words,
            env=os.environ | {"PYTHONPATH": path},
            input=data,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        charge(CPU_SECONDS)
        raise TimeoutError from None  # its own has what was read so far
    charge(_seconds(done.stderr))
    if done.returncode == -signal.SIGXCPU:
        _given_up[digest] = None
        if len(_given_up) > MOST_GIVEN_UP:
            _given_up.pop(next(iter(_given_up)), None)
        raise TimeoutError
    if done.returncode:
        raise ValueError
    return done.stdout


def _seconds(said: bytes) -> float:
    """Return the CPU time that a process told at its end; one that was ended by a signal counts as the longest."""
    try:
        return min(float(said), CPU_SECONDS)
    except ValueError:
        return CPU_SECONDS


def main() -> int:
    """Exit code 1 where it cannot be opened; ended by a signal where it takes too long."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))  # SIGXCPU, and SIGKILL had that no effect
    try:
        pem = certificates.pem_of_pfx(sys.stdin.buffer.read())
    except Exception:
        return 1
    finally:
        sys.stderr.write(f"{time.process_time():.3f}")
    sys.stdout.buffer.write(pem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
