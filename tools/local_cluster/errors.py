"""What goes wrong here, in words for the person at the terminal.

ClusterError          something failed: exit code 1
└── BadInput          what was asked for makes no sense: exit code 2
"""


class ClusterError(Exception):
    """A build, a start or a command failed; the message says which and what to do."""


class BadInput(ClusterError):  # noqa: N818 - it is not a failure of ours
    """A value given by the caller is wrong; the message names it and what it should be."""
