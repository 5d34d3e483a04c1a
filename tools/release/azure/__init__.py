"""Packages for Azure: Arc extension, identities, Flux."""
