"""Define the groups of SecretSyncs that share a poll."""

import hashlib

import msgspec

from controller.keyvault.credentials import Identity


class PollGroup(msgspec.Struct, frozen=True):
    """An identity, a vault and an interval in seconds. SecretSyncs with the same three share a poll."""

    identity: Identity
    cloud: str
    vault: str
    interval: float

    @property
    def namespace(self) -> str:
        """Return the namespace of the group."""
        return self.identity.namespace

    def fingerprint(self, usual: float) -> str:
        """Return a name for the group that fits into a status.

        It does not change with `usual`, the interval of those that ask for none of their own.
        """
        interval = None if self.interval == usual else self.interval
        text = msgspec.json.encode([self.identity, self.cloud, self.vault, interval])
        return hashlib.sha256(text).hexdigest()[:32]
