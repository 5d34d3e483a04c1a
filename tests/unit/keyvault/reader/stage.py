"""A reader of a vault on loopback that says what a test makes it say, over real TLS; the clock stands still."""

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


def refusal(status: int, code: str = "", inner: str = "", **headers: str) -> ScriptedResponse:
    """Return an error as Key Vault words it."""
    error: dict[str, Any] = {"code": code, "message": f"Words of the vault {CANARY}"}
    if inner:
        error["innererror"] = {"code": inner}
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return ScriptedResponse({"error": error}, status=status, headers=JSON | named)


class Scene:
    """A reader, the vault that it reads, a token and a clock."""

    def __init__(self, server: ScriptedApiServer) -> None:
        self.server = server
        self.server.default_response = self.answer_request
        self.answers: dict[str, ScriptedResponse] = {}
        self.counted: list[tuple[str, str]] = []
        self.no_token: ControllerError | None = None
        self.tokens_refused = self.denials = 0
        self.now = 1000.0
        self.reader: VaultReader

    async def get_token_info(self, *_scopes: str, options: object = None) -> AccessTokenInfo:
        """Stands for `FederatedCredential`."""
        if self.no_token:
            raise self.no_token
        return AccessTokenInfo("token", 4_000_000_000)

    def note_refusal(self, token: str) -> bool:
        """… and hears which token the vault refuses."""
        assert token == "token"
        self.tokens_refused += 1
        return False

    def note_forbidden(self) -> None:
        """… or that the vault denies access."""
        self.denials += 1

    def answer_request(self, asked: ReceivedRequest) -> ScriptedResponse:
        if "Authorization" not in asked.headers:
            return CHALLENGE
        return self.answers.get(asked.path) or refusal(404, "SecretNotFound")

    def has(self, name: str, value: str | None = "value", version: str = "v1", *, newest: bool = True) -> None:
        """Put a version of a secret into the vault."""
        body = {"id": f"{self.server.url}/secrets/{name}/{version}", "attributes": {"enabled": True, "updated": 9}}
        answer = ScriptedResponse(body | ({} if value is None else {"value": value}), headers=JSON)
        self.answers[f"/secrets/{name}/{version}"] = answer
        if newest:
            self.answers[f"/secrets/{name}/"] = self.answers[f"/secrets/{name}"] = answer

    def lists(self, name: str, *versions: tuple[str, int, bool]) -> None:
        """Which versions a list of them names: id, created, enabled."""
        items = [
            {
                "id": f"{self.server.url}/secrets/{name}/{version}",
                "attributes": {"enabled": enabled, "created": created},
            }
            for version, created, enabled in versions
        ]
        self.answers[f"/secrets/{name}/versions"] = ScriptedResponse({"value": items, "nextLink": None}, headers=JSON)
        for version, _, _ in versions:
            self.has(name, f"value of {version}", version, newest=False)

    async def read(self, *wanted: ObjectVersionRef) -> list[str | ControllerError]:
        self.now += 0.001  # what was asked for before is answered by what was read before, and this is not
        found = await self.reader.read(wanted, since=self.now, first=True)
        return [
            item.value.reveal().decode() if isinstance(item, VaultValue) else item
            for item in map(found.get, wanted)
            if item
        ]

    async def fails(self, wanted: ObjectVersionRef = USER) -> ControllerError:
        (error,) = await self.read(wanted)
        assert isinstance(error, ControllerError)
        return error

    @property
    def reads(self) -> list[str]:
        """The paths asked for with a token."""
        return [asked.path for asked in self.server.requests if "Authorization" in asked.headers]


@contextlib.asynccontextmanager
async def staged(authority: ClusterAuthority) -> AsyncIterator[Scene]:
    """Provide a scene, taken down afterwards."""
    pair = authority.issue("server", user="server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    async with run_api_server(tls) as server, new_scene(server, authority) as scene:
        yield scene


@contextlib.asynccontextmanager
async def new_scene(server: ScriptedApiServer, authority: ClusterAuthority) -> AsyncIterator[Scene]:
    """Provide a reader of a vault that runs."""
    async with new_session(authority.pair.cert.read_text()) as session:
        scene = Scene(server)
        calls = VaultClient(
            VaultAddress("shop", server.url),
            Identity("team", "robot", "client-1", "tenant-1"),
            cast("FederatedCredential", scene),
            new_transport(session),
            FairSemaphore(AT_ONCE),
            AdaptiveRateLimiter(lambda: scene.now),
            lambda vault_name, operation, outcome: scene.counted.append((operation, outcome)),
            lambda: scene.now,
        )
        scene.reader = VaultReader(calls)
        yield scene
        await scene.reader.close()


def serve_list(scene: Scene, *pages: list[dict[str, Any]], path: str = "/secrets", link: Any = None) -> None:
    """Serve a list in pages, each with the address of the next one. `link` is the address on the last page."""

    def answer(asked: ReceivedRequest) -> ScriptedResponse:
        if asked.path != path:
            return scene.answer_request(asked)
        number = int(asked.query.get("$skiptoken", 0))
        more = f"{scene.server.url}{path}?api-version=7.6&$skiptoken={number + 1}"
        after = more if number + 1 < len(pages) else link
        return ScriptedResponse({"value": pages[number], "nextLink": after}, headers=JSON)

    scene.server.default_response = answer


def item(scene: Scene, name: str, updated: int = 9, enabled: bool = True, path: str = "/secrets") -> dict[str, Any]:
    return {"id": f"{scene.server.url}{path}/{name}", "attributes": {"enabled": enabled, "updated": updated}}
