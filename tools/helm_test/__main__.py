"""The program in the test's image: `python -P -m tools.helm_test`. The chart sets its environment.

The verdict is the last line of the log, and the pod's termination message. Exit codes: 0 passed, 1 failed.
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
from tools.helm_test.vaults import open_vault
from tools.keyvault_emulator import EmulatorError

USER_AGENT = "akv-secret-store-test"
TERMINATION_LOG = Path("/dev/termination-log")
log = logging.getLogger("release-test")


async def run(settings: ReleaseTestSettings) -> str:
    """Run the test and remove its objects. Return the result as a sentence."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    # If the pod is deleted, the test removes its objects before it ends.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with KubeClient(await config.find_config(os.environ), USER_AGENT) as kube:
        sample = SampleObjects(kube, settings)
        for left in await sample.remove_objects():
            log.info("removed %s, which an earlier test left", left)
        async with open_vault(kube, settings) as vault:
            try:
                vault.put()
                await sample.create_objects(vault)
                await sample.wait_until_synced(vault)
                log.info("the sample is synced")
                if not vault.rotates:
                    return f"secret {settings.secret_name} of Key Vault {settings.keyvault_name} was synced"
                vault.put()
                await sample.wait_until_synced(vault)
                return "a sample and its next version were synced byte for byte"
            finally:
                await sample.remove_objects()


def main() -> int:
    """Run the test and report the verdict."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    settings = ReleaseTestSettings.from_environment()
    try:
        shown = asyncio.run(run(settings))
        verdict, code = f"passed: {shown}", 0
    except asyncio.CancelledError:
        verdict, code = "failed: it was stopped", 1
    except (FailedError, EmulatorError, errors.ControllerError, OSError) as error:
        show_log = f"kubectl --namespace {settings.namespace} logs deployment/{settings.deployment}"
        verdict, code = f"failed: {error}; the controller's log has the details: {show_log}", 1
    log.log(logging.ERROR if code else logging.INFO, "%s", verdict)
    if TERMINATION_LOG.exists():  # the kubelet creates this file
        TERMINATION_LOG.write_text(verdict)
    return code


if __name__ == "__main__":
    sys.exit(main())
