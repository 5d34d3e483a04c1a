"""Polls: one list of a vault for all SecretSyncs and AKVSyncs that read it as the same identity."""
