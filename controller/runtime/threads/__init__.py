"""Blocking work in daemon threads: the threads with their fair shares, parsing, and the resolution of host names."""
