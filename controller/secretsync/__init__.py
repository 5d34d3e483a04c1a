"""The reconciler of SecretSyncs: when to sync, what to fetch, what to write, what to report."""
