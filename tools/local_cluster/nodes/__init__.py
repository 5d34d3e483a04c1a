"""A node beside the control plane: containerd, kubelet and its network."""
