"""The programs of a control plane and of a node: found, downloaded or built."""
