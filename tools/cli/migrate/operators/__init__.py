"""`tools/migrate external-secrets` and `tools/migrate akv2k8s`: from other operators to this controller."""
