"""How Key Vault and Entra answer. Mostly pure."""
