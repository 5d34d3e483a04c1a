"""`helm test`: whether the deployed controller syncs a sample, rotates it, and gets every byte right."""
