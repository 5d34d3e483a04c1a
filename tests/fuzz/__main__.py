"""`make fuzz`: a coverage-guided search for inputs that break the parsing of certificates.

The search begins with the inputs in tests/fuzz/corpus. Inputs that reach new code are kept in build/fuzz for the next
search. A failure ends the run, with the input in build/fuzz/crash-*. Put that into the corpus when the fault is fixed.
"""

import argparse
import sys
from pathlib import Path

import atheris

# The fuzzer instruments the code when it is imported.
with atheris.instrument_imports(include=["controller.domain.certificates", "controller.domain.decode_values"]):
    from controller.domain import certificates, decode_values  # noqa: F401

from tests.fuzz.mutation import mutate
from tests.fuzz.splitter import MAX_BYTES, check

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path("build/fuzz")


def main() -> None:
    """Run the fuzzer, which ends the process with exit code 0 if it finds no failure."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="how long (default: ten minutes)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random source; 0: another one each time")
    options = parser.parse_args()
    FOUND.mkdir(parents=True, exist_ok=True)
    words = [
        f"-max_total_time={options.seconds}",
        f"-seed={options.seed}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={FOUND}/",
        "-timeout=30",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *words, str(FOUND), str(CORPUS)], check, custom_mutator=_mutate)
    atheris.Fuzz()


def _mutate(data: bytes, most: int, seed: int) -> bytes:
    return mutate(data, most, seed, lambda part, size: bytes(atheris.Mutate(part, size)))


if __name__ == "__main__":
    main()
