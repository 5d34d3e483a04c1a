"""Words of the product's messages that several test modules expect. A change of wording is one edit here."""

NEITHER_PEM_NOR_PFX = "neither PEM nor PFX"

NOT_IN_KEY_VAULT = "is not in Key Vault"
