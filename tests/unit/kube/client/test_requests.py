"""Test the requests to the Kubernetes API, over real HTTP."""

import contextlib

import msgspec
import pytest

from controller import errors
from controller.api.meta import ObjectMeta
from controller.kube import client, permissions
from controller.kube.client import KubeClient
from controller.runtime.zeroize import zeroize
from tests.support.builders import make_sync
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, error_response, run_api_server
from tests.unit.kube.client.calls import CANARY, META, PARTIAL, Call, probe_secret

TOKEN = {"status": {"token": "a.b.c", "expirationTimestamp": "2030-01-01T00:00:00Z"}}


@pytest.mark.parametrize(
    ("call", "answer", "method", "path", "query", "body"),
    [
        pytest.param(
            lambda api: permissions.SECRET_SYNCS.list_page(api, "", ""),
            {"metadata": {"resourceVersion": "5"}, "items": []},
            "GET",
            "/apis/secret-sync.x-k8s.io/v1alpha1/secretsyncs",
            {"limit": "50"},
            None,
            id="list everywhere",
        ),
        pytest.param(
            lambda api: permissions.CLASSES.list_page(api, "team", "next"),
            {"metadata": {}, "items": []},
            "GET",
            "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/team/secretproviderclasses",
            {"limit": "50", "continue": "next"},
            None,
            id="continue a list in a namespace",
        ),
        pytest.param(
            probe_secret,
            PARTIAL,
            "PATCH",
            "/api/v1/namespaces/team/secrets/shop",
            {"fieldManager": "akv-secret-store"},
            {},
            id="probe",
        ),
        pytest.param(
            lambda api: permissions.SECRETS.create(api, "team", {"kind": "Secret"}, dry_run=True),
            PARTIAL,
            "POST",
            "/api/v1/namespaces/team/secrets",
            {"fieldManager": "akv-secret-store", "dryRun": "All"},
            {"kind": "Secret"},
            id="create with dry run",
        ),
        pytest.param(
            lambda api: permissions.SECRETS.merge(api, META, {"data": {"a": None}, "metadata": {"labels": {"x": "y"}}}),
            PARTIAL,
            "PATCH",
            "/api/v1/namespaces/team/secrets/shop",
            {"fieldManager": "akv-secret-store"},
            {"data": {"a": None}, "metadata": {"labels": {"x": "y"}, "uid": "u1", "resourceVersion": "42"}},
            id="merge with a precondition",
        ),
        pytest.param(
            lambda api: permissions.SECRET_SYNC_STATUS.patch_status(api, META, {"syncHash": "h"}),
            msgspec.to_builtins(make_sync()),
            "PATCH",
            "/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/team/secretsyncs/shop/status",
            {"fieldManager": "akv-secret-store"},
            {"metadata": {"resourceVersion": "42"}, "status": {"syncHash": "h"}},
            id="status",
        ),
        pytest.param(
            lambda api: permissions.MADE_SYNCS_GONE.delete(api, META),
            {},
            "DELETE",
            "/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/team/secretsyncs/shop",
            {},
            {
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": {"uid": "u1", "resourceVersion": "42"},
            },
            id="delete with a precondition",
        ),
        pytest.param(
            lambda api: permissions.TOKENS.request_token(api, "team", "robot", audience="a://b", seconds=600),
            TOKEN,
            "POST",
            "/api/v1/namespaces/team/serviceaccounts/robot/token",
            {},
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": ["a://b"], "expirationSeconds": 600},
            },
            id="token",
        ),
        pytest.param(
            lambda api: permissions.EVENTS.create(api, "team", {"note": "n"}),
            {},
            "POST",
            "/apis/events.k8s.io/v1/namespaces/team/events",
            {},
            {"note": "n"},
            id="event",
        ),
        pytest.param(
            lambda api: permissions.CRDS.get(api, "a.b"),
            {},
            "GET",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/a.b",
            {},
            None,
            id="a CRD",
        ),
    ],
)
async def test_each_call_sends_its_request(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
    call: Call,
    answer: dict[str, object],
    method: str,
    path: str,
    query: dict[str, str],
    body: object,
) -> None:
    server, api = server_and_client
    server.add_responses(answer)
    await call(api)
    (request,) = server.requests
    assert (request.method, request.path, request.query) == (method, path, query)
    assert (msgspec.json.decode(request.body) if request.body else None) == body


@pytest.mark.parametrize("answer", [PARTIAL, error_response(403, "no")])
async def test_request_body_is_zeroized_after_the_call(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
    answer: dict[str, object] | ScriptedResponse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, api = server_and_client
    bodies: list[bytearray] = []

    def zeroize_and_record(body: bytearray) -> None:
        bodies.append(body)
        zeroize(body)

    monkeypatch.setattr(client, "zeroize", zeroize_and_record)
    server.add_responses(answer)
    with contextlib.suppress(errors.Refused):
        await permissions.SECRETS.create(api, "team", {"data": {"k": CANARY}})
    assert CANARY.encode() in server.requests[0].body
    assert bodies == [bytes(len(server.requests[0].body))]


@pytest.mark.parametrize(
    "call",
    [
        probe_secret,
        lambda api: permissions.SECRETS.create(api, "team", {}),
        lambda api: permissions.SECRETS.merge(api, META, {}),
    ],
)
async def test_secret_requests_accept_only_metadata(
    server_and_client: tuple[ScriptedApiServer, KubeClient], call: Call
) -> None:
    server, api = server_and_client
    server.add_responses(PARTIAL)
    assert await call(api) == ObjectMeta(name="shop", namespace="team", resource_version="43")
    assert server.requests[0].headers["Accept"] == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


async def test_hostile_name_stays_in_its_place_in_the_path(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
) -> None:
    server, api = server_and_client
    server.add_responses(error_response(404))
    with pytest.raises(errors.NotFound):
        await permissions.SECRETS.probe_metadata(api, "team", "../../x?a=b")
    assert server.requests[0].path == "/api/v1/namespaces/team/secrets/../../x?a=b"
    assert server.requests[0].query == {"fieldManager": "akv-secret-store"}


async def test_every_request_has_the_current_token() -> None:
    async def make_token() -> str:
        return f"Bearer number-{len(server.requests)}"

    async with run_api_server() as server, KubeClient(server.client_config()._replace(authorization=make_token)) as api:
        server.add_responses(PARTIAL, PARTIAL)
        await probe_secret(api)
        await probe_secret(api)
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer number-0", "Bearer number-1"]


async def test_call_before_connecting_names_the_mistake() -> None:
    with pytest.raises(RuntimeError, match="async with KubeClient"):
        await probe_secret(KubeClient(ScriptedApiServer().client_config()))
