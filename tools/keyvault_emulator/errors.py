"""Build the error answers of Key Vault and Entra in the forms that their clients parse."""

import uuid
from datetime import UTC, datetime
from typing import Any


class EmulatorError(Exception):
    """The emulator cannot do what the caller requests. The message has the cause and the fix."""


class ErrorAnswer(Exception):  # noqa: N818 - it is an answer, not a failure of this program
    """An error answer to send: HTTP status, JSON body, extra headers."""

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
        self.headers = headers or {}


def vault_error(
    status: int, code: str, message: str, *, inner: str | None = None, headers: dict[str, str] | None = None
) -> ErrorAnswer:
    """Return the refusal of a vault: `{"error": {"code", "message", "innererror": {"code"}}}`."""
    error: dict[str, Any] = {"code": code, "message": message}
    if inner:
        error["innererror"] = {"code": inner}
    return ErrorAnswer(status, {"error": error}, headers)


def entra_error(
    status: int,
    error: str,
    code: int,
    text: str,
    *,
    now: float,
    error_uri: str,
    correlation: str | None = None,
) -> ErrorAnswer:
    """Return the refusal of Entra's token endpoint: OAuth's `error`, and the AADSTS number twice."""
    trace, correlation = str(uuid.uuid4()), correlation or str(uuid.uuid4())
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return ErrorAnswer(
        status,
        {
            "error": error,
            "error_description": f"AADSTS{code}: {text} Trace ID: {trace} Correlation ID: {correlation} "
            f"Timestamp: {moment}",
            "error_codes": [code],
            "timestamp": moment,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{error_uri}/error?code={code}",
        },
    )
