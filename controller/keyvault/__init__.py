"""Azure Key Vault and Entra: credentials, one client per vault and identity, errors with a next step."""
