"""Provide a reader with a scripted vault on loopback over real TLS. Its clock moves only when a test sets it."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, cast

from azure.core.credentials import AccessTokenInfo

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.values import VaultValue
from controller.errors import ControllerError
from controller.keyvault.client import AT_ONCE, VaultClient
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.errors import VaultAddress
from controller.keyvault.reader import VaultReader
from controller.keyvault.transport import new_session, new_transport
from controller.runtime.fair_share import FairSemaphore
from controller.runtime.rate_limiter import AdaptiveRateLimiter
from tests.support.scripted_api_server import ReceivedRequest, ScriptedApiServer, ScriptedResponse, run_api_server
from tools.local_cluster.pki import ClusterAuthority

JSON = {"Content-Type": "application/json"}
CHALLENGE = ScriptedResponse(
    b"", status=401, headers={"WWW-Authenticate": 'Bearer authorization="https://login/t", resource="https://proposed"'}
)
CANARY = "canary-77aa"
USER = ObjectVersionRef(VaultObject(name="user"))
WEB, SIGN = (
    ObjectVersionRef(VaultObject(name="web", type="cert")),
    ObjectVersionRef(VaultObject(name="sign", type="key")),
)


def make_refusal(status: int, code: str = "", inner: str = "", **headers: str) -> ScriptedResponse:
    """Return an error in Key Vault's format."""
    error: dict[str, Any] = {"code": code, "message": f"Words of the vault {CANARY}"}
    if inner:
        error["innererror"] = {"code": inner}
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return ScriptedResponse({"error": error}, status=status, headers=JSON | named)


class ReaderHarness:
    """A reader, the vault that it reads, a token and a clock."""

    def __init__(self, server: ScriptedApiServer) -> None:
        self.server = server
        self.server.default_response = self.answer_request
        self.answers: dict[str, ScriptedResponse] = {}
        self.counted: list[tuple[str, str]] = []
        self.token = "token"
        self.token_error: ControllerError | None = None
        self.tokens_refused = self.denials = 0
        self.now = 1000.0
        self.reader: VaultReader

    async def get_token_info(self, *_scopes: str, options: object = None) -> AccessTokenInfo:
        """Return a token as `FederatedCredential` does, or raise `token_error`."""
        if self.token_error:
            raise self.token_error
        return AccessTokenInfo(self.token, 4_000_000_000)

    def note_refusal(self, token: str) -> None:
        """Count the refusals of the token."""
        assert token == self.token
        self.tokens_refused += 1

    def note_forbidden(self) -> None:
        """Count the denials of access."""
        self.denials += 1

    def answer_request(self, request: ReceivedRequest) -> ScriptedResponse:
        if "Authorization" not in request.headers:
            return CHALLENGE
        return self.answers.get(request.path) or make_refusal(404, "SecretNotFound")

    def put_secret(self, name: str, value: str | None = "value", version: str = "v1", *, newest: bool = True) -> None:
        """Put a version of a secret into the vault."""
        body = {"id": f"{self.server.url}/secrets/{name}/{version}", "attributes": {"enabled": True, "updated": 9}}
        answer = ScriptedResponse(body | ({} if value is None else {"value": value}), headers=JSON)
        self.answers[f"/secrets/{name}/{version}"] = answer
        if newest:
            self.answers[f"/secrets/{name}/"] = self.answers[f"/secrets/{name}"] = answer

    def put_versions(self, name: str, *versions: tuple[str, int, bool]) -> None:
        """Put versions of a secret into the vault: id, time of creation, and whether it is enabled."""
        items = [
            {
                "id": f"{self.server.url}/secrets/{name}/{version}",
                "attributes": {"enabled": enabled, "created": created},
            }
            for version, created, enabled in versions
        ]
        self.answers[f"/secrets/{name}/versions"] = ScriptedResponse({"value": items, "nextLink": None}, headers=JSON)
        for version, _, _ in versions:
            self.put_secret(name, f"value of {version}", version, newest=False)

    async def read(self, *wanted: ObjectVersionRef) -> list[str | ControllerError]:
        self.now += 0.001  # A cached value answers only earlier requests, so this call reads a new value.
        found = await self.reader.read(wanted, since=self.now, first=True)
        return [
            item.value.reveal().decode() if isinstance(item, VaultValue) else item
            for item in map(found.get, wanted)
            if item
        ]

    async def read_error(self, wanted: ObjectVersionRef = USER) -> ControllerError:
        (error,) = await self.read(wanted)
        assert isinstance(error, ControllerError)
        return error

    @property
    def paths_read(self) -> list[str]:
        """Return the paths of the requests with a token."""
        return [request.path for request in self.server.requests if "Authorization" in request.headers]


@contextlib.asynccontextmanager
async def start_reader(authority: ClusterAuthority) -> AsyncIterator[ReaderHarness]:
    """Provide a harness, and close its connections afterwards."""
    pair = authority.issue("server", user="server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    async with run_api_server(tls) as server, start_reader_of(server, authority) as harness:
        yield harness


@contextlib.asynccontextmanager
async def start_reader_of(server: ScriptedApiServer, authority: ClusterAuthority) -> AsyncIterator[ReaderHarness]:
    """Provide a reader of a vault that already runs."""
    async with new_session(authority.pair.cert.read_text()) as session:
        harness = ReaderHarness(server)
        calls = VaultClient(
            VaultAddress("shop", server.url),
            Identity("team", "robot", "client-1", "tenant-1"),
            cast("FederatedCredential", harness),
            new_transport(session),
            FairSemaphore(AT_ONCE),
            AdaptiveRateLimiter(lambda: harness.now),
            lambda vault_name, operation, outcome: harness.counted.append((operation, outcome)),
            lambda: harness.now,
        )
        harness.reader = VaultReader(calls)
        yield harness
        await harness.reader.close()


def serve_list(harness: ReaderHarness, *pages: list[dict[str, Any]], path: str = "/secrets", link: Any = None) -> None:
    """Serve a list in pages. Each page has the address of the next one; the last one has `link`."""

    def answer(request: ReceivedRequest) -> ScriptedResponse:
        if request.path != path:
            return harness.answer_request(request)
        number = int(request.query.get("$skiptoken", 0))
        more = f"{harness.server.url}{path}?api-version=7.6&$skiptoken={number + 1}"
        after = more if number + 1 < len(pages) else link
        return ScriptedResponse({"value": pages[number], "nextLink": after}, headers=JSON)

    harness.server.default_response = answer


def make_item(
    harness: ReaderHarness, name: str, updated: int = 9, enabled: bool = True, path: str = "/secrets"
) -> dict[str, Any]:
    return {"id": f"{harness.server.url}{path}/{name}", "attributes": {"enabled": enabled, "updated": updated}}
