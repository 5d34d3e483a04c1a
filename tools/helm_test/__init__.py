"""`helm test`: check that the deployed controller syncs a sample, syncs its next version, and changes no byte."""
