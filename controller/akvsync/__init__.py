"""The reconciler of AKVSyncs, which generate SecretProviderClasses and SecretSyncs."""
