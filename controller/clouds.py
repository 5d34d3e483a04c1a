"""The clouds that may be reached: the administrator's, and one that a file brings and takes away while this runs.

The file is `helm test`'s, in a ConfigMap that the test fills and empties. It only ever adds, and only the cloud of
that one name: a cloud of the administrator's keeps its hosts whatever the file says. Nobody is woken by a new cloud:
who brings one edits a SecretSync then.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from controller.settings import TEST_CLOUD, Cloud, Settings, SettingsError, parse_clouds

# Seconds between two looks at the file; the kubelet takes far longer to bring a change.
LOOK_SECONDS = 2.0
# Seconds for which a cloud of the file is trusted at the most: a test that was killed cannot take its own back.
LONGEST = 600.0
log = logging.getLogger(__name__)


# Other names of the built-in clouds, in small letters, as the CSI provider's Azure SDK (go-autorest) knows them.
CLOUD_ALIASES = {"azurecloud": "AzurePublicCloud", "azureusgovernment": "AzureUSGovernmentCloud"}


def find_cloud(name: str, clouds: Iterable[str]) -> str | None:
    """Return which of the clouds a cloudName means, whatever its letter case; None where it means none of them."""
    names = list(clouds)
    known = {each.lower(): each for each in names}
    return name if name in names else known.get(CLOUD_ALIASES.get(name.lower(), name).lower())


class Clouds(Mapping[str, Cloud]):
    """Clouds by name."""

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

    async def follow(self) -> None:
        """Goes on for ever: what the file says holds from then on."""
        while self._file:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Takes over what the file says, if that changed. No file, one that cannot be read or an old one: no clouds."""
        try:
            text = self._file.read_bytes() if self._file else b""
        except OSError:
            text = b""
        before = self._passing
        if text != self._text:
            self._text, self._came, self._passing = text, self._clock(), self._parse(text)
        elif self._clock() - self._came > LONGEST:
            self._passing = {}
        if self._passing != before:
            log.info("clouds of a test: %s", ", ".join(sorted(self._passing.keys() - self._lasting.keys())) or "none")

    def _parse(self, text: bytes) -> Mapping[str, Cloud]:
        try:
            given = parse_clouds(text) if text else {}
        except SettingsError as error:
            log.warning("TEST_CLOUDS_FILE %s is not used: %s", self._file, error)
            return {}
        if ignored := len(given.keys() - {TEST_CLOUD}):
            # The names are not printed: an editor of the release's namespace can write anything into this file.
            log.warning(
                "TEST_CLOUDS_FILE %s: %d clouds are ignored, it may add only %s", self._file, ignored, TEST_CLOUD
            )
        return {name: cloud for name, cloud in given.items() if name == TEST_CLOUD}
