"""tools/migrate: move from the CSI driver, External Secrets, akv2k8s or SSE to this controller, or back to SSE."""
