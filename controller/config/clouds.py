"""Keep the known clouds: the administrator's, and one that a file can add and remove while the controller runs.

The file belongs to `helm test`: a ConfigMap that the test fills and empties. It can add only the cloud `helm-test`, and
cannot change the hosts of the administrator's clouds. A new cloud triggers no sync, so the test edits a SecretSync
afterwards.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from controller.config.settings import TEST_CLOUD, Cloud, Settings, SettingsError, parse_clouds

# Seconds between two reads of the file. The kubelet needs far longer to deliver a change.
REREAD_SECONDS = 2.0
# Maximum seconds for which the file's cloud is used, because a test that was killed cannot remove it.
MAX_AGE = 600.0
# Maximum characters of an error about the file in a log line.
MAX_SHOWN = 300
log = logging.getLogger(__name__)


# Other names of the built-in clouds in lower case, as in the CSI provider's Azure SDK (go-autorest).
CLOUD_ALIASES = {"azurecloud": "AzurePublicCloud", "azureusgovernment": "AzureUSGovernmentCloud"}


def find_cloud(name: str, clouds: Iterable[str]) -> str | None:
    """Return the cloud that a cloudName means, independent of letter case, or None."""
    names = list(clouds)
    known = {each.lower(): each for each in names}
    return name if name in names else known.get(CLOUD_ALIASES.get(name.lower(), name).lower())


class CloudRegistry(Mapping[str, Cloud]):
    """The clouds by name. A change of the file applies after `reload_file`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasting = settings.clouds()
        self._file = Path(settings.test_clouds_file) if settings.test_clouds_file else None
        self._text = b""
        self._clock = clock
        self._came = 0.0
        self._passing: Mapping[str, Cloud] = {}

    def __getitem__(self, name: str) -> Cloud:
        return self._lasting.get(name) or self._passing[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._passing, **self._lasting})

    def __len__(self) -> int:
        return len({**self._passing, **self._lasting})

    async def watch_file(self) -> None:
        """Read the file periodically, and apply its changes."""
        while self._file:
            self.reload_file()
            await asyncio.sleep(REREAD_SECONDS)

    def reload_file(self) -> None:
        """Apply a change of the file. A missing, unreadable or old file means no clouds."""
        try:
            text = self._file.read_bytes() if self._file else b""
        except OSError:
            text = b""
        before = self._passing
        if text != self._text:
            self._text, self._came, self._passing = text, self._clock(), self._parse_clouds(text)
        elif self._clock() - self._came > MAX_AGE:
            self._passing = {}
        if self._passing != before:
            log.info("clouds of a test: %s", ", ".join(sorted(self._passing.keys() - self._lasting.keys())) or "none")

    def _parse_clouds(self, text: bytes) -> Mapping[str, Cloud]:
        try:
            given = parse_clouds(text) if text else {}
        except SettingsError as error:
            # The error quotes names, and an editor of the release's namespace can write any text into this file.
            shown = "".join(each if each.isprintable() else "?" for each in str(error)[:MAX_SHOWN])
            log.warning("TEST_CLOUDS_FILE %s is not used: %s", self._file, shown)
            return {}
        if ignored := len(given.keys() - {TEST_CLOUD}):
            # These names are not logged for the same reason.
            log.warning(
                "TEST_CLOUDS_FILE %s: %d clouds are ignored, it may add only %s", self._file, ignored, TEST_CLOUD
            )
        return {name: cloud for name, cloud in given.items() if name == TEST_CLOUD}
