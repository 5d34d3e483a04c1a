"""The program in the test's image: `python -P -m tools.helm_test`, with the environment that the chart gives it.

Its verdict is the last line of the log, and the pod's termination message. Exit codes: 0 passed, 1 failed.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from controller import errors
from controller.kube import config
from controller.kube.client import KubeClient
from tools.helm_test.sample import FailedError, SampleObjects
from tools.helm_test.settings import ReleaseTestSettings
from tools.helm_test.vaults import opened
from tools.keyvault_emulator import EmulatorError

USER_AGENT = "akv-secret-store-test"
TERMINATION_LOG = Path("/dev/termination-log")
log = logging.getLogger("release-test")


async def run(settings: ReleaseTestSettings) -> str:
    """The test, from nothing to nothing; returns what it has shown."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this runs in one
    # A pod that is deleted has removed what it made before it ends.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with KubeClient(await config.find_config(os.environ), USER_AGENT) as kube:
        sample = SampleObjects(kube, settings)
        await sample.remove()
        async with opened(kube, settings) as vault:
            try:
                vault.put()
                await sample.make(vault)
                await sample.arrives(vault)
                log.info("the sample is there")
                if not vault.rotates:
                    return f"secret {settings.secret_name} of Key Vault {settings.keyvault_name} arrives"
                vault.put()
                await sample.arrives(vault)
                return "a sample arrives, and its next version too, byte for byte"
            finally:
                await sample.remove()


def main() -> int:
    """Runs the test and tells the verdict."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    settings = ReleaseTestSettings.from_environment()
    try:
        shown = asyncio.run(run(settings))
        verdict, code = f"passed: {shown}", 0
    except asyncio.CancelledError:
        verdict, code = "failed: it was told to stop", 1
    except (FailedError, EmulatorError, errors.ControllerError, OSError) as error:
        look = f"kubectl --namespace {settings.namespace} logs deployment/{settings.deployment}"
        verdict, code = f"failed: {error}; the controller's log tells more: {look}", 1
    log.log(logging.ERROR if code else logging.INFO, "%s", verdict)
    if TERMINATION_LOG.exists():  # the kubelet made it
        TERMINATION_LOG.write_text(verdict)
    return code


if __name__ == "__main__":
    sys.exit(main())
