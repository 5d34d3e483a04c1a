"""The program in the image: Azure Key Vault to Kubernetes Secrets. See ARCHITECTURE.md."""
