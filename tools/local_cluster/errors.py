"""The errors of tools/cluster. Their messages are for the user of the terminal.

ClusterError          a build, a start or a command failed: exit code 1
├── BadInput          an argument or a variable is wrong: exit code 2
└── DownloadError     an official release cannot be downloaded; a build can still succeed
"""

from collections.abc import Collection


class ClusterError(Exception):
    """A build, a start or a command failed. The message has the cause and the next step."""


class BadInput(ClusterError):  # noqa: N818 - the name describes the input, not a failure
    """A value given by the caller is wrong. The message names the value and the accepted ones."""


class DownloadError(ClusterError):
    """A file of a release cannot be downloaded or must not be used. The message has its address and the cause."""

    def __init__(self, message: str, *, timed_out: Collection[str] = ()) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        """The addresses of the sources that sent too little before their time was over."""
