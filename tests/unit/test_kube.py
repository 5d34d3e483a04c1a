"""Requests and answers of the Kubernetes API, over real HTTP: what is sent, and what every failure becomes."""

import asyncio
import base64
import contextlib
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from controller import errors, kube, permissions
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta
from controller.kube import Kube
from controller.wiped import wipe
from tests.unit.api_server import Answer, ApiServer, connected, refusal, serving
from tools.local_cluster.pki import Authority

CANARY = "canary-6f1d"
META = ObjectMeta(name="shop", namespace="team", uid="u1", resource_version="42")
PARTIAL = {"kind": "PartialObjectMetadata", "metadata": {"name": "shop", "namespace": "team", "resourceVersion": "43"}}
TOKEN = {"status": {"token": "a.b.c", "expirationTimestamp": "2030-01-01T00:00:00Z"}}
Call = Callable[[Kube], Awaitable[object]]


@pytest.fixture
async def both() -> AsyncIterator[tuple[ApiServer, Kube]]:
    async with connected() as pair:
        yield pair


async def failure(call: Awaitable[object]) -> errors.KubeError:
    with pytest.raises(errors.KubeError) as caught:
        await call
    return caught.value


def look(api: Kube) -> Awaitable[object]:
    return permissions.SECRETS.look(api, "team", "shop")


# What is sent


@pytest.mark.parametrize(
    ("call", "answer", "method", "path", "query", "body"),
    [
        pytest.param(
            lambda api: permissions.SECRET_SYNCS.page(api, "", ""),
            {"metadata": {"resourceVersion": "5"}, "items": []},
            "GET",
            "/apis/secret-sync.x-k8s.io/v1alpha1/secretsyncs",
            {"limit": "500"},
            None,
            id="list everywhere",
        ),
        pytest.param(
            lambda api: permissions.CLASSES.page(api, "team", "next"),
            {"metadata": {}, "items": []},
            "GET",
            "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/team/secretproviderclasses",
            {"limit": "500", "continue": "next"},
            None,
            id="list on in a namespace",
        ),
        pytest.param(
            look,
            PARTIAL,
            "PATCH",
            "/api/v1/namespaces/team/secrets/shop",
            {"fieldManager": "akv-secret-store"},
            {},
            id="look",
        ),
        pytest.param(
            lambda api: permissions.SECRETS.create(api, "team", {"kind": "Secret"}, dry_run=True),
            PARTIAL,
            "POST",
            "/api/v1/namespaces/team/secrets",
            {"fieldManager": "akv-secret-store", "dryRun": "All"},
            {"kind": "Secret"},
            id="create, dry",
        ),
        pytest.param(
            lambda api: permissions.SECRETS.merge(api, META, {"data": {"a": None}, "metadata": {"labels": {"x": "y"}}}),
            PARTIAL,
            "PATCH",
            "/api/v1/namespaces/team/secrets/shop",
            {"fieldManager": "akv-secret-store"},
            {"data": {"a": None}, "metadata": {"labels": {"x": "y"}, "uid": "u1", "resourceVersion": "42"}},
            id="merge, unless it changed",
        ),
        pytest.param(
            lambda api: permissions.SECRET_SYNC_STATUS.patch(api, META, {"syncHash": "h"}),
            {"status": {"syncHash": "h"}},
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
            id="delete, unless it changed",
        ),
        pytest.param(
            lambda api: permissions.TOKENS.request(api, "team", "robot", audience="a://b", seconds=600),
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
async def test_requests(
    both: tuple[ApiServer, Kube],
    call: Call,
    answer: dict[str, object],
    method: str,
    path: str,
    query: dict[str, str],
    body: object,
) -> None:
    server, api = both
    server.will_answer(answer)
    await call(api)
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.query) == (method, path, query)
    assert (msgspec.json.decode(asked.body) if asked.body else None) == body


@pytest.mark.parametrize("answer", [PARTIAL, refusal(403, "no")])
async def test_what_was_sent_is_overwritten(
    both: tuple[ApiServer, Kube], answer: dict[str, object] | Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, api = both
    bodies: list[bytearray] = []

    def watched(body: bytearray) -> None:
        bodies.append(body)
        wipe(body)

    monkeypatch.setattr(kube, "wipe", watched)
    server.will_answer(answer)
    with contextlib.suppress(errors.Refused):
        await permissions.SECRETS.create(api, "team", {"data": {"k": CANARY}})
    assert CANARY.encode() in server.asked[0].body
    assert bodies == [bytes(len(server.asked[0].body))]


@pytest.mark.parametrize(
    "call",
    [
        look,
        lambda api: permissions.SECRETS.create(api, "team", {}),
        lambda api: permissions.SECRETS.merge(api, META, {}),
    ],
)
async def test_answers_about_secrets_are_asked_for_as_metadata(both: tuple[ApiServer, Kube], call: Call) -> None:
    server, api = both
    server.will_answer(PARTIAL)
    assert await call(api) == ObjectMeta(name="shop", namespace="team", resource_version="43")
    assert server.asked[0].headers["Accept"] == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


async def test_names_cannot_leave_their_place_in_the_path(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer(refusal(404))
    with pytest.raises(errors.NotFound):
        await permissions.SECRETS.look(api, "team", "../../x?a=b")
    assert server.asked[0].path == "/api/v1/namespaces/team/secrets/../../x?a=b"
    assert server.asked[0].query == {"fieldManager": "akv-secret-store"}


async def test_every_request_carries_the_token_of_its_moment() -> None:
    async def renewed() -> str:
        return f"Bearer number-{len(server.asked)}"

    async with serving() as server, Kube(server.access()._replace(authorization=renewed)) as api:
        server.will_answer(PARTIAL, PARTIAL)
        await look(api)
        await look(api)
    assert [asked.headers["Authorization"] for asked in server.asked] == ["Bearer number-0", "Bearer number-1"]


async def test_without_a_connection_the_mistake_is_named() -> None:
    with pytest.raises(RuntimeError, match="async with Kube"):
        await look(Kube(ApiServer().access()))


# What failures become

POLICY = "secrets is forbidden: ValidatingAdmissionPolicy 'akv' with binding 'akv' denied request: not this type"


@pytest.mark.parametrize(
    ("answer", "kind", "message", "retry_after"),
    [
        (refusal(400, "bad"), errors.Refused, "bad", None),
        (refusal(401, "who are you"), errors.Refused, "who are you", None),
        (refusal(403, "not you"), errors.Refused, "not you", None),
        (refusal(404, "not here"), errors.NotFound, "not here", None),
        (refusal(409, "somebody was faster"), errors.Conflict, "somebody was faster", None),
        (refusal(410, "too old"), errors.Expired, "too old", None),
        (refusal(413, "too large"), errors.Refused, "too large", None),
        (refusal(422, "field is immutable"), errors.Refused, "field is immutable", None),
        (refusal(422, POLICY), errors.PolicyRefused, POLICY, None),
        (refusal(403, POLICY), errors.PolicyRefused, POLICY, None),
        (refusal(429, "slowly", Retry_After="17"), errors.Unreachable, "slowly", 17),
        (refusal(429, "slowly"), errors.Unreachable, "slowly", None),
        (refusal(429, "slowly", Retry_After="Wed, 01 Jan 2031 00:00:00 GMT"), errors.Unreachable, "slowly", None),
        (refusal(503, "later", Retry_After="²"), errors.Unreachable, "later", None),
        (refusal(500, "oh"), errors.Unreachable, "oh", None),
        (refusal(504, "slow"), errors.Unreachable, "slow", None),
        (Answer(b"<html>Bad Gateway</html>", status=502), errors.Unreachable, "HTTP 502", None),
        (Answer(b"", status=503), errors.Unreachable, "HTTP 503", None),
        (Answer(b"\xff\xfe", status=403), errors.Refused, "HTTP 403", None),
        (Answer([1, 2], status=403), errors.Refused, "HTTP 403", None),
        (Answer({"message": None}, status=403), errors.Refused, "HTTP 403", None),
        (Answer({"error": "another shape"}, status=403), errors.Refused, "HTTP 403", None),
    ],
)
async def test_refusals(
    both: tuple[ApiServer, Kube], answer: Answer, kind: type[errors.KubeError], message: str, retry_after: float | None
) -> None:
    server, api = both
    server.will_answer(answer)
    error = await failure(look(api))
    assert type(error) is kind
    assert (error.message, error.status, error.retry_after) == (message, answer.status, retry_after)
    assert error.reason == (Reason.POLICY_REFUSED if kind is errors.PolicyRefused else Reason.SYNC_FAILED)


async def test_an_endless_message_is_cut(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer(refusal(403, "x" * 100_000))
    assert len((await failure(look(api))).message) == 1000


@pytest.mark.parametrize(
    "call",
    [
        look,
        lambda api: permissions.SECRETS.create(api, "team", {}),
        lambda api: permissions.SECRET_SYNC_STATUS.patch(api, META, {}),
        lambda api: permissions.TOKENS.request(api, "team", "robot", audience="a", seconds=600),
        lambda api: permissions.SECRET_SYNCS.page(api, "", ""),
        lambda api: permissions.CRDS.get(api, "a.b"),
    ],
)
@pytest.mark.parametrize("body", [b"<html>Sign in to the network</html>", b"", b"\xff", b"[]", b'{"metadata":'])
async def test_a_good_status_with_a_body_that_makes_no_sense(
    both: tuple[ApiServer, Kube], call: Call, body: bytes
) -> None:
    # What stands between us and the API server may answer anything. It must become an error like any other.
    server, api = both
    server.will_answer(Answer(body))
    assert isinstance(await failure(call(api)), errors.Unreachable)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"not JSON", status=500),
        Answer({"data": CANARY}, status=422),
        Answer(b'{"metadata":', broken=True),
        refusal(409),
    ],
)
async def test_what_was_written_is_in_no_failure(both: tuple[ApiServer, Kube], answer: Answer) -> None:
    server, api = both
    server.will_answer(answer)
    encoded = base64.b64encode(CANARY.encode()).decode()
    error = await failure(permissions.SECRETS.merge(api, META, {"data": {"key": encoded}, "note": CANARY}))
    told = "".join(traceback.format_exception(error)) + repr(error.__cause__)
    assert CANARY not in told
    assert encoded not in told


async def test_an_answer_that_does_not_come_in_time(
    both: tuple[ApiServer, Kube], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, api = both
    monkeypatch.setattr(kube, "TIMEOUT", 0.05)
    error = await failure(look(api))
    assert isinstance(error, errors.Unreachable)
    assert "in time" in error.message
    assert len(server.asked) == 1


async def test_a_connection_that_breaks_off(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer(Answer(b"{", headers={"Content-Length": "500"}, broken=True))
    error = await failure(look(api))
    assert isinstance(error, errors.Unreachable)
    assert "cannot be reached" in error.message


async def test_a_port_that_nobody_listens_on() -> None:
    async with serving() as server:
        access = server.access()
    async with Kube(access) as api:
        error = await failure(look(api))
    assert isinstance(error, errors.Unreachable)
    assert error.status == 0


# TLS


async def test_only_the_clusters_own_authority_is_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "cluster")
    (tmp_path / "else").mkdir()
    stranger = Authority(tmp_path / "else", "stranger")
    pair = authority.issue("server", user="server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    async with serving(tls) as server:
        server.will_answer(PARTIAL)
        async with Kube(server.access(authority.pair.cert)) as api:
            assert await look(api)
        async with Kube(server.access(stranger.pair.cert)) as api:
            error = await failure(look(api))
        assert "ClientConnectorCertificateError" in error.message
        assert len(server.asked) == 1


# Watches


async def test_a_line_larger_than_any_buffer_arrives_whole(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    large = msgspec.json.encode({"type": "ADDED", "object": {"spec": "x" * 2**21}})
    small = msgspec.json.encode({"type": "BOOKMARK", "object": {}})
    server.will_answer([large + b"\n" + small + b"\n\n", b"", small[:9], small[9:] + b"\n"])
    lines = [line async for line in api.lines("/", {}, quiet=5)]
    assert lines == [large, small, small]


async def test_a_half_line_at_the_end_is_not_an_event(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer([b'{"type":"ADDED"}\n{"type":"DEL'])
    assert [line async for line in api.lines("/", {}, quiet=5)] == [b'{"type":"ADDED"}']


async def test_a_watch_that_falls_silent_is_given_up(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer(Answer([b'{"type":"ADDED"}\n'], held=True))
    lines = api.lines("/", {}, quiet=0.05)
    assert await anext(lines) == b'{"type":"ADDED"}'
    error = await failure(anext(lines))
    assert isinstance(error, errors.Unreachable)


async def test_a_watch_asks_for_bookmarks_and_an_end(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer([{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}])
    events = [event async for event in permissions.SECRET_SYNCS.watch(api, "team", "5")]
    assert [event.type for event in events] == ["BOOKMARK"]
    assert server.asked[0].query == {
        "watch": "true",
        "resourceVersion": "5",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "290",
    }


async def test_many_watches_leave_room_for_requests(both: tuple[ApiServer, Kube]) -> None:
    # 40 watched namespaces are 80 watches, and all of them last.
    server, api = both
    server.will_answer(*[Answer([b"{}\n"], held=True) for _ in range(80)])

    async def watch() -> None:
        async for _ in api.lines("/", {}, quiet=60):
            pass

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        watches = [tasks.create_task(watch()) for _ in range(80)]
        await server.idle.wait()
        server.will_answer(PARTIAL)
        await look(api)
        for task in watches:
            task.cancel()
