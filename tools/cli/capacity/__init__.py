"""tools/plan: calculate what a fleet costs its vaults."""
