"""The program in the image: Azure Key Vault to Kubernetes Secrets. See CONTRIBUTING.md for the way of one secret."""
