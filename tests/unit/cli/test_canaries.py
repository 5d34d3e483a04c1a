"""Test that tools/doctor and tools/migrate print no value of a Secret and no foreign text about one."""

import asyncio
import base64
import json
from pathlib import Path

import msgspec
import pytest

from controller import errors
from controller.api.meta import Secret
from controller.api.secretsync import SecretSync
from controller.config.settings import FIELD_MANAGER
from controller.kube.resources import ResourceClient
from tests.support.builders import make_secret_meta, make_sync, make_value
from tests.support.canaries import CANARY, FORMS, find_forms
from tests.support.scripted_api_server import (
    ReceivedRequest,
    ScriptedApiServer,
    ScriptedResponse,
    connect_to_api_server,
    run_api_server,
    write_kubeconfig,
)
from tools.cli.common.kube_client import OperatorKubeClient, first_line
from tools.cli.doctor import checks
from tools.cli.doctor.checks import SecretData
from tools.cli.migrate import migrate

PATH = ResourceClient(Secret, "").url_path("team", "shop")


def make_refusals(quoted: str) -> list[ScriptedResponse]:
    text = f'admission webhook "guard" denied the request: {quoted}'
    return [
        ScriptedResponse({"message": each, "reason": each, "details": {"name": each}}, status=status)
        for each in (quoted, text)
        for status in (400, 403, 409, 422, 500)
    ]


@pytest.mark.parametrize("form", FORMS)
async def test_doctor_prints_no_text_about_an_unreadable_secret(form: str) -> None:
    quoted_value = FORMS[form](CANARY)
    unreadable = [
        ScriptedResponse(body)
        for body in ({"data": quoted_value}, {"data": {"k": [quoted_value]}}, {"type": {quoted_value: 1}}, quoted_value)
    ]
    unreadable += [
        ScriptedResponse(quoted_value.encode()),
        ScriptedResponse(b'{"data": {"k": "' + quoted_value.encode() + b'\xff"}}'),
    ]
    async with connect_to_api_server() as (server, kube):
        for answer in (*make_refusals(quoted_value), *unreadable):
            server.add_responses(answer)
            with pytest.raises(errors.KubeError) as caught:
                await OperatorKubeClient(kube).get_as(PATH, SecretData)
            assert not find_forms(str(checks.warn("team/shop", "secret", first_line(caught.value), "")))


@pytest.mark.parametrize("form", FORMS)
def test_doctor_prints_no_value_of_a_different_secret(form: str) -> None:
    encoded = base64.b64encode(FORMS[form](CANARY).encode()).decode()
    for data in ({"k": encoded}, {"k": encoded, "other": encoded}, {}):
        secret = SecretData(metadata=make_secret_meta(list(data)), type="Opaque", data=data)
        for fetched in (make_value(CANARY), make_value("else"), errors.ObjectError("gone")):
            line = str(checks.secret("team/shop", make_sync(["k"]), secret, {"k": fetched}))
            assert not find_forms(line)


def answer_as_cluster(request: ReceivedRequest, about_secret: ScriptedResponse) -> ScriptedResponse:
    """Answer as a cluster with one SecretSync and no release. `about_secret` is its answer about the Secret."""
    if "/secrets/" in request.path:
        metadata = json.loads(json.dumps(msgspec.to_builtins(make_secret_meta(["k"]))))
        metadata["managedFields"] = [
            {"manager": FIELD_MANAGER, "operation": "Update", "fieldsV1": {"f:data": {"f:k": {}}}}
        ]
        return (
            ScriptedResponse({"metadata": metadata})
            if request.method == "GET" and about_secret.status == 422
            else about_secret
        )
    items = []
    if request.path.endswith(f"/{SecretSync.plural}"):
        items = [
            {
                "metadata": msgspec.to_builtins(make_sync(["k"]).metadata),
                "spec": msgspec.to_builtins(make_sync(["k"]).spec),
            }
        ]
    return ScriptedResponse({"metadata": {}, "items": items})


@pytest.mark.parametrize("command", [["from-sse"], ["to-sse"], ["to-sse", "--apply"]], ids=" ".join)
async def test_migrate_prints_no_foreign_text_about_a_secret(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with run_api_server() as server:
        for answer in (make_refusals(CANARY)[number] for number in (6, 8, 9)):
            server.default_response = lambda request, answer=answer: answer_as_cluster(request, answer)
            arguments = [*command, "--kubeconfig", write_kubeconfig(tmp_path, server.url)]
            await asyncio.to_thread(migrate.main, arguments)
            output = "".join(capsys.readouterr())
            assert "team/shop" in output or "migrate" in output
            assert not find_forms(output)
    assert _was_asked_about_secret(server)


def _was_asked_about_secret(server: ScriptedApiServer) -> bool:
    return any("/secrets/" in request.path for request in server.requests)
