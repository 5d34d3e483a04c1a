"""Build the container images."""
