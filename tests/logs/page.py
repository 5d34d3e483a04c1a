"""Read the configuration of log export from the chart's README."""

import re
from typing import Any

import yaml

from tools.cli.common import helm


def read_blocks() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the chart's values and the collector's configuration."""
    section = (helm.CHART / "README.md").read_text().partition("\n## Logs to a collector\n")[2].partition("\n## ")[0]
    values, collector = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    return values, collector
