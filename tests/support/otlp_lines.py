"""Log records as the controller creates them, and as a collector reads them."""

import logging
from collections.abc import Mapping
from typing import Any


def make_record(message: str = "synced", level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("controller.secretsync.syncer", level, "here.py", 1, message, None, None)
    record.fields = fields
    return record


def decode_any_value(value: Mapping[str, Any]) -> Any:
    """Return the Python value of an OTLP AnyValue in JSON."""
    match dict(value):
        case {"arrayValue": {"values": items}}:
            return [decode_any_value(item) for item in items]
        case {"kvlistValue": {"values": pairs}}:
            return {pair["key"]: decode_any_value(pair["value"]) for pair in pairs}
        case {"intValue": str(text)}:
            return int(text)
        case {}:
            return next(iter(value.values()), None)
