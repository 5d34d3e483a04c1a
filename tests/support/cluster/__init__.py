"""The harness of the suites that run on a real control plane."""
