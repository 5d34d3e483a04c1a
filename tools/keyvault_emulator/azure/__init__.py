"""Answer requests as Key Vault and Entra do. Mostly pure."""
