"""The tools that operators run."""
