"""`make soak`: an hour of everything at once on the real API server, from a seed that it prints.

Prints a line a step, and at last how much the process has grown; ends with an error where something was lost.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import SETTINGS, Soak
from tests.support.cluster.harness import chart_crds, install_first_release
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane


def main() -> int:
    """Return exit code 0 if all invariants held. Raise an error for one that did not."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, metavar="N", help="how long (default: an hour)")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="how many SecretSyncs (default: 1,000)")
    parser.add_argument(
        "--seed", type=int, help="seed of the random source; without it, a new one is printed at the start"
    )
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with (
            ControlPlane(folder / "plane", crds=chart_crds()) as plane,
            Emulator(folder / "emulator") as emulator,
        ):
            emulator.trust_issuer(plane.issuer, plane.ca_file)
            installed = install_first_release(plane, emulator, folder)
            with installed.workload(**SETTINGS) as controller:
                controller.wait_ready()
                Soak(installed, controller, options.count, lambda line: print(line, flush=True)).run(
                    seed, options.seconds
                )
                assert controller.stop() == 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
