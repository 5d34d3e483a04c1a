"""tools/package: write a release folder."""
