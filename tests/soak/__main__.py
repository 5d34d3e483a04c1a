"""`make soak`: run rotations, faults, restarts and edits for an hour, with the controller on a real API server.

The run first prints its seed, then a line for each step, and at the end how much the controller process has grown. It
ends with an error if a Secret was lost or changed without an action, or if the process has grown too much.
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
    """Return exit code 0 if all checks passed. Raise an error for the first failed one."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, metavar="N", help="length of the run (default: an hour)")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="number of SecretSyncs (default: 1,000)")
    parser.add_argument("--seed", type=int, help="seed of the steps (default: a random one, which the run prints)")
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            ControlPlane(folder / "plane", crds=chart_crds()) as plane,
            Emulator(folder / "emulator") as emulator,
        ):
            emulator.trust_issuer(plane.issuer, plane.ca_file)
            installed = install_first_release(plane, emulator, folder)
            with installed.workload(**SETTINGS) as controller:
                controller.wait_ready()
                soak = Soak(installed, controller, options.count, lambda line: print(line, flush=True))
                soak.run(seed, options.seconds)
                assert controller.stop() == 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
