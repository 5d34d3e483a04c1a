"""Convert the objects of akv2k8s: `conversion` converts the Secrets, `keys` one key, and `kinds` has the types."""
