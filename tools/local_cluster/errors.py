"""What goes wrong here, in words for the person at the terminal.

ClusterError          something failed: exit code 1
├── BadInput          what was asked for makes no sense: exit code 2
└── DownloadError     an official release cannot be downloaded; a build may succeed
"""

from collections.abc import Collection


class ClusterError(Exception):
    """A build, a start or a command failed; the message says which and what to do."""


class BadInput(ClusterError):  # noqa: N818 - it is not a failure of ours
    """A value given by the caller is wrong; the message names it and what it should be."""


class DownloadError(ClusterError):
    """A file of a release cannot be downloaded or must not be used; the message names its address and the cause."""

    def __init__(self, message: str, *, timed_out: Collection[str] = ()) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        """The addresses of sources that had all their time and sent too little."""
