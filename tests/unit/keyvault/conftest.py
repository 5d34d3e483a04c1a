"""Leave out the tests of an independent vault unless the caller names its program."""

import os

collect_ignore = [] if os.environ.get("LOWKEY_VAULT_JAR") else ["test_lowkey_vault.py"]
