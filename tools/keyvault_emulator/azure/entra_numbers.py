"""List refusals of Entra, by their AADSTS number, that only `refuse_tokens` causes in the emulator.

Source: "Microsoft Entra authentication and authorization error codes"; messages that were posted with their number.
"""

ENTRA_URI = "https://login.microsoftonline.com"

_EXTERNAL = (400, "invalid_request", "Request to External OIDC endpoint failed.")

AADSTS: dict[int, tuple[int, str, str]] = {
    50166: _EXTERNAL,
    90061: _EXTERNAL,
    501661: (400, "invalid_request", "Response from External OIDC endpoint is too large or malformed."),
    900612: (400, "invalid_request", "Failed to parse the response from the External OIDC endpoint."),
    900382: (400, "invalid_request", "Confidential Client is not supported in Cross Cloud request."),
    7000229: (
        401,
        "invalid_client",
        "The client application is missing service principal in the tenant. See instructions here: "
        "https://go.microsoft.com/fwlink/?linkid=2225119",
    ),
    53003: (
        400,
        "invalid_grant",
        "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance.",
    ),
    50020: (
        400,
        "invalid_grant",
        "User account from identity provider does not exist in tenant and cannot access the application in it.",
    ),
    500011: (400, "invalid_resource", "The resource principal was not found in the tenant."),
    1002012: (400, "invalid_scope", "The provided value for scope is not valid."),
    900432: (400, "invalid_request", "Confidential Client is not supported in Cross Cloud request."),
    7000112: (400, "unauthorized_client", "Application is disabled."),
    5000211: (
        400,
        "invalid_request",
        "A tenant restrictions policy added to this request by a device or network administrator does not allow access "
        "to the tenant.",
    ),
    50196: (
        400,
        "invalid_grant",
        "The server terminated an operation because it encountered a client request loop. Please contact your app "
        "vendor.",
    ),
    50058: (400, "interaction_required", "A silent sign-in request was sent but no user is signed in."),
}
"""HTTP status, OAuth's error, and Entra's text."""
