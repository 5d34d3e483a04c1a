"""Test the error for every failure of the Kubernetes API, over real HTTP."""

import asyncio
import base64
import contextlib
import gzip
import socket
import ssl
import threading
import time
import traceback
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from controller import errors
from controller.api.conditions import Reason
from controller.api.meta import Secret
from controller.kube import client, permissions
from controller.kube.client import KubeClient
from controller.kube.foreign_text import MAX_TEXT
from controller.kube.resources import GetAccess
from tests.support import canaries
from tests.support.canaries import SOME_FORMS
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, error_response, run_api_server
from tests.unit.kube.client.calls import CANARY, META, PARTIAL, Call, catch_error, probe_secret
from tools.keyvault_emulator.tls import LocalAuthority
from tools.local_cluster.pki import ClusterAuthority

POLICY = "secrets is forbidden: ValidatingAdmissionPolicy 'akv' with binding 'akv' denied request: not this type"
BY_POLICY = "ValidatingAdmissionPolicy 'akv' refused the Secret (HTTP {})"
WEBHOOK = 'admission webhook "guard.example.com" denied the request: the value is x'
WEBHOOK_UNAVAILABLE = (
    'Internal error occurred: failed calling webhook "guard.example.com": failed to call webhook: refused'
)
BY_WEBHOOK = 'admission webhook "guard.example.com" refused the Secret (HTTP {})'
REFUSED, UNABLE = "the API server refused a request", "the API server could not answer"


@pytest.mark.parametrize(
    ("answer", "kind", "message", "retry_after"),
    [
        (error_response(400, "bad"), errors.Refused, "rejected the Secret as invalid (HTTP 400)", None),
        (error_response(401, "who are you"), errors.Refused, REFUSED, None),
        (error_response(403, "not you"), errors.Refused, REFUSED, None),
        (error_response(404, "not here"), errors.NotFound, "does not exist (HTTP 404)", None),
        (error_response(409, "another client was faster"), errors.Conflict, "changed in the meantime (HTTP 409)", None),
        (error_response(410, "too old"), errors.ResourceExpired, REFUSED, None),
        (error_response(413, "too large"), errors.Refused, REFUSED, None),
        (error_response(422, "field is immutable"), errors.Refused, "field is immutable", None),
        (error_response(422, POLICY), errors.PolicyRefused, BY_POLICY.format(422), None),
        (error_response(403, POLICY), errors.PolicyRefused, BY_POLICY.format(403), None),
        *(
            (error_response(code, WEBHOOK, Retry_After="17"), errors.Refused, BY_WEBHOOK.format(code), None)
            for code in (400, 401, 404, 409, 410, 413, 422, 429, 499, 500, 503)
        ),
        (error_response(500, WEBHOOK_UNAVAILABLE), errors.Unreachable, "could not be called (HTTP 500)", None),
        (error_response(429, "slowly", Retry_After="17"), errors.Unreachable, UNABLE, 17),
        (error_response(429, "slowly"), errors.Unreachable, UNABLE, None),
        (error_response(429, "slowly", Retry_After="Wed, 01 Jan 2031 00:00:00 GMT"), errors.Unreachable, UNABLE, 300),
        (error_response(503, "later", Retry_After="²"), errors.Unreachable, UNABLE, None),
        (error_response(500, "oh"), errors.Unreachable, UNABLE, None),
        (error_response(504, "slow"), errors.Unreachable, UNABLE, None),
        (ScriptedResponse(b"<html>Bad Gateway</html>", status=502), errors.Unreachable, "(HTTP 502)", None),
        (ScriptedResponse(b"", status=503), errors.Unreachable, "(HTTP 503)", None),
        (ScriptedResponse(b"\xff\xfe", status=403), errors.Refused, "(HTTP 403)", None),
        (ScriptedResponse([1, 2], status=403), errors.Refused, "(HTTP 403)", None),
        (ScriptedResponse({"message": None}, status=403), errors.Refused, "(HTTP 403)", None),
        (ScriptedResponse({"error": "another shape"}, status=403), errors.Refused, "(HTTP 403)", None),
    ],
)
async def test_each_error_status_becomes_its_error(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
    answer: ScriptedResponse,
    kind: type[errors.KubeError],
    message: str,
    retry_after: float | None,
) -> None:
    server, api = server_and_client
    server.add_responses(answer)
    error = await catch_error(probe_secret(api))
    assert type(error) is kind
    assert message in error.message
    assert (error.status, error.retry_after) == (answer.status, retry_after)
    assert error.reason == (Reason.POLICY_REFUSED if kind is errors.PolicyRefused else Reason.SYNC_FAILED)


async def test_long_message_is_truncated(server_and_client: tuple[ScriptedApiServer, KubeClient]) -> None:
    server, api = server_and_client
    server.add_responses(error_response(403, "x" * 100_000))
    error = await catch_error(permissions.SECRET_SYNC_STATUS.patch_status(api, META, {}))
    assert len(error.message) == MAX_TEXT


@pytest.mark.parametrize(
    "call",
    [
        probe_secret,
        lambda api: permissions.SECRETS.create(api, "team", {}),
        lambda api: permissions.SECRET_SYNC_STATUS.patch_status(api, META, {}),
        lambda api: permissions.TOKENS.request_token(api, "team", "robot", audience="a", seconds=600),
        lambda api: permissions.SECRET_SYNCS.list_page(api, "", ""),
        lambda api: permissions.CRDS.get(api, "a.b"),
    ],
)
@pytest.mark.parametrize("body", [b"<html>Sign in to the network</html>", b"", b"\xff", b"[]", b'{"metadata":'])
async def test_invalid_body_with_a_success_status_is_unreachable(
    server_and_client: tuple[ScriptedApiServer, KubeClient], call: Call, body: bytes
) -> None:
    # A proxy between the controller and the API server may send any answer.
    server, api = server_and_client
    server.add_responses(ScriptedResponse(body))
    assert isinstance(await catch_error(call(api)), errors.Unreachable)


@pytest.mark.parametrize(
    "answer",
    [
        ScriptedResponse(b"not JSON", status=500),
        ScriptedResponse({"data": CANARY}, status=422),
        ScriptedResponse(b'{"metadata":', broken=True),
        error_response(409),
    ],
)
async def test_error_contains_no_value_that_was_written(
    server_and_client: tuple[ScriptedApiServer, KubeClient], answer: ScriptedResponse
) -> None:
    server, api = server_and_client
    server.add_responses(answer)
    encoded = base64.b64encode(CANARY.encode()).decode()
    error = await catch_error(permissions.SECRETS.merge(api, META, {"data": {"key": encoded}, "note": CANARY}))
    text = "".join(traceback.format_exception(error)) + repr(error.__cause__)
    assert CANARY not in text
    assert encoded not in text


async def test_late_answer_is_reported_as_unreachable(
    server_and_client: tuple[ScriptedApiServer, KubeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, api = server_and_client
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    error = await catch_error(probe_secret(api))
    assert isinstance(error, errors.Unreachable)
    assert "in time" in error.message
    assert len(server.requests) == 1


async def test_broken_connection_is_reported_as_unreachable(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
) -> None:
    server, api = server_and_client
    server.add_responses(ScriptedResponse(b"{", headers={"Content-Length": "500"}, broken=True))
    error = await catch_error(probe_secret(api))
    assert isinstance(error, errors.Unreachable)
    assert "cannot be reached" in error.message


async def test_closed_port_is_reported_as_unreachable() -> None:
    async with run_api_server() as server:
        access = server.client_config()
    async with KubeClient(access) as api:
        error = await catch_error(probe_secret(api))
    assert isinstance(error, errors.Unreachable)
    assert error.status == 0


async def test_write_of_a_process_that_lost_the_lease_while_it_connected_is_not_sent(tmp_path: Path) -> None:
    """A process can be suspended between the check of its Lease and the end of the TLS handshake."""
    authority = LocalAuthority(tmp_path)
    connecting, continues = asyncio.Event(), asyncio.Event()
    leads = True

    def check() -> None:
        if not leads:
            raise errors.NotLeading("it does not lead any more")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connecting.set()
        await continues.wait()
        from_server, to_server = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
        await asyncio.gather(pump(reader, to_server), pump(from_server, writer))

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.closing(target), contextlib.suppress(ConnectionError):
            while data := await source.read(2**16):
                target.write(data)

    async with (
        run_api_server(authority.server_context(tmp_path, ["127.0.0.1"])) as server,
        await asyncio.start_server(relay, "127.0.0.1", 0) as front,
    ):
        access = server.client_config(authority.file)
        address = f"https://127.0.0.1:{front.sockets[0].getsockname()[1]}"
        async with KubeClient(access._replace(server=address)) as api:
            write = asyncio.create_task(api.with_fence(check).call("POST", "/api/v1/namespaces/n/secrets", body={}))
            await connecting.wait()
            leads = False
            continues.set()
            with pytest.raises(errors.NotLeading):
                await asyncio.wait_for(write, 5)
        assert not server.requests


async def test_only_the_clusters_own_authority_is_trusted(tmp_path: Path) -> None:
    authority = ClusterAuthority(tmp_path, "cluster")
    (tmp_path / "else").mkdir()
    stranger = ClusterAuthority(tmp_path / "else", "stranger")
    pair = authority.issue("server", user="server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    async with run_api_server(tls) as server:
        server.add_responses(PARTIAL)
        async with KubeClient(server.client_config(authority.pair.cert)) as api:
            assert await probe_secret(api)
        async with KubeClient(server.client_config(stranger.pair.cert)) as api:
            error = await catch_error(probe_secret(api))
        assert "ClientConnectorCertificateError" in error.message
        assert len(server.requests) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x"])
@pytest.mark.parametrize("status", [200, 403])
async def test_compressed_answer_is_not_decompressed(
    server_and_client: tuple[ScriptedApiServer, KubeClient], encoding: str, status: int
) -> None:
    server, api = server_and_client
    server.add_responses(
        ScriptedResponse(gzip.compress(b"{}" * 2**20), status=status, headers={"Content-Encoding": encoding})
    )
    assert "compressed answer" in (await catch_error(probe_secret(api))).message
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


async def test_answer_that_is_too_large_is_not_read_to_its_end(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
) -> None:
    server, api = server_and_client
    server.add_responses(ScriptedResponse(b" " * (client.MAX_ANSWER + 1)))
    assert isinstance(await catch_error(probe_secret(api)), errors.AnswerTooLarge)


SECRET_REQUESTS: dict[str, Call] = {
    "create": lambda api: permissions.SECRETS.create(api, "team", {"data": {"key": "x"}}),
    "patch": lambda api: permissions.SECRETS.merge(api, META, {"data": {"key": "x"}}),
    "patch of metadata": lambda api: permissions.SECRETS.merge(api, META, {"metadata": {"labels": {}}}),
    "probe": probe_secret,
    "get": lambda api: GetAccess(Secret, "").get(api, "team", "shop"),
}


@pytest.mark.parametrize("call_name", SECRET_REQUESTS)
async def test_error_of_a_secret_request_contains_no_foreign_text(
    server_and_client: tuple[ScriptedApiServer, KubeClient], call_name: str
) -> None:
    server, api = server_and_client
    for form in SOME_FORMS:
        for status in (400, 403, 404, 409, 410, 413, 422, 429, 500, 504):
            text = f'admission webhook "x" denied the request: {form(canaries.CANARY)}'
            status_object = {"message": text, "reason": text, "details": {"name": text, "causes": [{"message": text}]}}
            server.add_responses(ScriptedResponse(status_object, status=status, headers={"Warning": "299 - x"}))
            error = await catch_error(SECRET_REQUESTS[call_name](api))
            assert not canaries.find_forms("".join(traceback.format_exception(error)))


def test_hanging_lookup_does_not_delay_the_end_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In some clusters KUBERNETES_SERVICE_HOST is a name, and a kubeconfig usually has one."""
    ended = threading.Event()
    monkeypatch.setattr(client, "TIMEOUT", 1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(20))

    async def main() -> None:
        config = ScriptedApiServer().client_config()._replace(server="http://api.example")
        async with KubeClient(config) as api:
            await catch_error(probe_secret(api))

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 10
    ended.set()
