"""tools/demo: the life of one secret, narrated."""
