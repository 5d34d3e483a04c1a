"""`make fuzz`: search for inputs that break the parsing of certificates.

The fuzzer atheris starts with the inputs in tests/fuzz/corpus and changes them. It keeps inputs that reach new code in
build/fuzz for the next search. A failure ends the run, with its input in build/fuzz/crash-*. When you have fixed the
fault, add this input to the corpus.
"""

import argparse
import sys
from pathlib import Path

import atheris

# The fuzzer instruments the code when it is imported.
with atheris.instrument_imports(include=["controller.domain.certificates", "controller.domain.decode_values"]):
    from controller.domain import certificates, decode_values  # noqa: F401

from tests.fuzz.checks import MAX_BYTES, check_input
from tests.fuzz.mutation import mutate

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path("build/fuzz")


def main() -> None:
    """Run the fuzzer, which ends the process with exit code 0 if it finds no failure."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="length of the run (default: 10 minutes)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random source; 0 (default): a random seed")
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
    atheris.Setup([sys.argv[0], *words, str(FOUND), str(CORPUS)], check_input, custom_mutator=_mutate_input)
    atheris.Fuzz()


def _mutate_input(data: bytes, max_bytes: int, seed: int) -> bytes:
    return mutate(data, max_bytes, seed, lambda part, part_max: bytes(atheris.Mutate(part, part_max)))


if __name__ == "__main__":
    main()
