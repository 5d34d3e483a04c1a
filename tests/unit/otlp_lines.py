"""Log lines as they are made, and as a collector reads them."""

import logging
from collections.abc import Mapping
from typing import Any


def made(message: str = "synced", level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("controller.sync", level, "here.py", 1, message, None, None)
    record.fields = fields
    return record


def plain(value: Mapping[str, Any]) -> Any:
    """An AnyValue as JSON has it."""
    match dict(value):
        case {"arrayValue": {"values": items}}:
            return [plain(item) for item in items]
        case {"kvlistValue": {"values": pairs}}:
            return {pair["key"]: plain(pair["value"]) for pair in pairs}
        case {"intValue": str(text)}:
            return int(text)
        case {}:
            return next(iter(value.values()), None)
