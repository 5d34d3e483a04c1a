"""The chart's upgrade Job, which updates the CRDs."""
