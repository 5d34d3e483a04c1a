"""What every failure of the Kubernetes API becomes, over real HTTP."""

import base64
import gzip
import ssl
import traceback
from pathlib import Path

import pytest

from controller import errors, kube, permissions
from controller.api.conditions import Reason
from controller.kube import Kube
from tests.unit.api_server import Answer, ApiServer, refusal, serving
from tests.unit.kube.calls import CANARY, META, PARTIAL, Call, failure, look
from tools.local_cluster.pki import Authority

POLICY = "secrets is forbidden: ValidatingAdmissionPolicy 'akv' with binding 'akv' denied request: not this type"
HIDDEN = (
    "ValidatingAdmissionPolicy 'akv' refused the Secret; the message is not shown, because it can quote values: the log"
    " of that component or the API server's audit log has it"
)


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
        (refusal(422, POLICY), errors.PolicyRefused, HIDDEN, None),
        (refusal(403, POLICY), errors.PolicyRefused, HIDDEN, None),
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


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x"])
@pytest.mark.parametrize("status", [200, 403])
async def test_a_compressed_answer_is_not_decompressed(
    both: tuple[ApiServer, Kube], encoding: str, status: int
) -> None:
    server, api = both
    server.will_answer(Answer(gzip.compress(b"{}" * 2**20), status=status, headers={"Content-Encoding": encoding}))
    assert "compressed answer" in (await failure(look(api))).message
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


async def test_an_answer_of_many_bytes_is_not_read_to_its_end(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer(Answer(b" " * (kube.MAX_ANSWER + 1)))
    assert isinstance(await failure(look(api)), errors.AnswerTooLarge)


@pytest.mark.parametrize("status", [400, 422])
async def test_nothing_is_passed_on_of_a_refused_write_of_values(both: tuple[ApiServer, Kube], status: int) -> None:
    server, api = both
    server.will_answer(refusal(status, f'Secret "shop" is invalid: json: cannot unmarshal number {CANARY}'))
    error = await failure(permissions.SECRETS.create(api, "team", {"data": {"key": "x"}}))
    assert CANARY not in error.message
    assert "rejected the Secret as invalid" in error.message
