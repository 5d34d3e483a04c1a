"""Define the groups of SecretSyncs that one poll serves."""

import hashlib

import msgspec

from controller.keyvault.credentials import Identity


class PollGroup(msgspec.Struct, frozen=True):
    """SecretSyncs with the same identity, vault and interval (seconds). One poll serves all of them."""

    identity: Identity
    cloud: str
    vault: str
    interval: float

    @property
    def namespace(self) -> str:
        """Return the namespace of the group."""
        return self.identity.namespace

    def fingerprint(self, usual: float) -> str:
        """Return a hash that names the group in a status.

        `usual` is the interval of SecretSyncs without their own. A change of it does not change the hash.
        """
        interval = None if self.interval == usual else self.interval
        text = msgspec.json.encode([self.identity, self.cloud, self.vault, interval])
        return hashlib.sha256(text).hexdigest()[:32]
