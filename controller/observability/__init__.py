"""Logs, metrics and the servers that expose them."""
