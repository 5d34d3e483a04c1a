"""The program as the container starts it: its help, its exit codes, its life from SIGTERM's point of view."""

import asyncio
import contextlib
import inspect
import json
import os
import socket
import sys
from asyncio import sslproto
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from controller.app import GRACE_SECONDS
from controller.config.settings import Settings
from controller.kube.policy_guard import NEVER_WRITTEN, ONE_AUDIENCE
from tests.support.scripted_api_server import (
    ReceivedRequest,
    ScriptedApiServer,
    ScriptedResponse,
    error_response,
    run_api_server,
    write_kubeconfig,
)

ROOT = Path(__file__).parents[2]
CALM = {"LISTEN_ADDRESS": "127.0.0.1", "LISTEN_PORT": "0", "HEALTH_PORT": "0"}


async def start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """Return the program, with nothing of this process's environment but what it takes to find it."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "controller",
        *arguments,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of a program that ends by itself."""
    process = await start(*arguments, **environment)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_help_lists_every_setting_with_its_meaning_and_default() -> None:
    code, out, err = await ended("run", "--help")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for field in msgspec.structs.fields(Settings):
        line = lines[field.name.upper()]
        meaning = line.removeprefix(f"  {field.name.upper()}").split("(default:")[0].strip()
        assert len(meaning) > 15, line
        assert f"(default: {field.default!r})" in line
    assert "KUBECONFIG" in lines


async def test_help_lists_the_subcommands() -> None:
    code, out, err = await ended("--help")
    assert (code, err) == (0, "")
    assert "run the controller until SIGTERM (the default)" in " ".join(out.split())
    code, out, err = await ended("upgrade-crds", "--help")
    assert (code, err) == (0, "")
    assert "to a superset of the served ones" in " ".join(out.split())


async def test_unknown_subcommand_is_refused_with_the_known_ones() -> None:
    code, out, err = await ended("crds", "/etc/crds")
    assert (code, out) == (2, "")
    assert "invalid choice: 'crds'" in err


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ROTATION_POLL_INTERVAL": "soon"}, ["ROTATION_POLL_INTERVAL", "int"]),
        ({"LOG_LEVEL": "loud"}, ["LOG_LEVEL", "'loud'"]),
        ({"DEFAULT_CLOUD": "Lab"}, ["DEFAULT_CLOUD", "'Lab'", "AzurePublicCloud"]),
        ({"CLOUDS_FILE": "/none/clouds.json"}, ["CLOUDS_FILE", "/none/clouds.json"]),
        ({"KUBECONFIG": "/none/config"}, ["KUBECONFIG", "/none/config", "not a file"]),
        ({}, ["run in a pod or set KUBECONFIG"]),
    ],
)
async def test_what_cannot_be_used_is_one_readable_line_and_exit_2(
    environment: dict[str, str], words: list[str]
) -> None:
    code, out, err = await ended(**environment)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


async def test_a_setting_may_be_an_argument_which_goes_before_the_environment() -> None:
    code, _, err = await ended("--log-level=loud", "--jitter", "5", LOG_LEVEL="info")
    assert code == 2
    assert "LOG_LEVEL is 'loud'" in err


async def test_an_unknown_argument_is_exit_2() -> None:
    code, _, err = await ended("--nonsense")
    assert code == 2
    assert "--nonsense" in err


async def test_a_port_in_use_is_one_readable_line_and_exit_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, err = await ended(
            KUBECONFIG=write_kubeconfig(tmp_path, "http://127.0.0.1:9"), LISTEN_ADDRESS="127.0.0.1", LISTEN_PORT=port
        )
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert port in err


def test_asyncio_takes_the_size_of_its_tls_buffer_from_where_it_is_set() -> None:
    assert "bytearray(self.max_size)" in inspect.getsource(sslproto.SSLProtocol.__init__)


class Life:
    """A running controller: its log and its probes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []

    async def says(self, message: str) -> dict[str, Any]:
        """Wait for that line, however busy the machine is; every line must be JSON."""
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            self.log.append(json.loads(line))
            if self.log[-1]["message"] == message:
                return self.log[-1]
        raise AssertionError(f"it ended without saying {message!r}: {self.log}")

    async def probe(self, port: int, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()

    async def ends(self) -> tuple[int | None, str]:
        _, err = await asyncio.wait_for(self.process.communicate(), GRACE_SECONDS / 2)
        return self.process.returncode, err.decode()


@contextlib.asynccontextmanager
async def living(folder: Path, server: ScriptedApiServer, **environment: str) -> AsyncIterator[Life]:
    life = Life(await start(KUBECONFIG=write_kubeconfig(folder, server.url), **CALM, **environment))
    try:
        yield life
    finally:
        if life.process.returncode is None:
            life.process.kill()
            await life.process.communicate()


def empty_cluster(asked: ReceivedRequest) -> ScriptedResponse:
    """Lists are empty, watches last, dry runs are refused by policy."""
    if asked.method == "POST":
        kind, message = ("tokens", ONE_AUDIENCE) if asked.path.endswith("/token") else ("secrets", NEVER_WRITTEN)
        policy = f"'{kind}.mine'"
        return error_response(
            422, f"ValidatingAdmissionPolicy {policy} with binding {policy} denied request: {message}"
        )
    if asked.is_watch:
        return ScriptedResponse(held=True)
    return ScriptedResponse({"metadata": {"resourceVersion": "1"}, "items": []})


async def test_ready_once_everything_was_listed_and_gone_soon_after_sigterm(tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = empty_cluster
        async with living(tmp_path, server, PROBE_SECRET_TYPE="example.com/no", POLICIES_NAME="mine") as life:
            started = await life.says("started")
            assert (await life.says("listed"))["secretsyncs"] == 0
            assert await life.probe(started["health_port"], "/readyz") == (200, "ok\n")
            assert await life.probe(started["health_port"], "/healthz") == (200, "ok\n")
            assert "akv_secret_store_queue_due 0.0" in (await life.probe(started["port"], "/metrics"))[1]
            life.process.terminate()
            # Nothing was under way, so there is nothing to wait for.
            async with asyncio.timeout(GRACE_SECONDS / 2):
                await life.says("stopping")
                await life.says("stopped")
                assert await life.ends() == (0, "")
    assert [one.query.get("dryRun") for one in server.requests if one.method == "POST"] == ["All", None]


@pytest.mark.parametrize("ships", [False, True])
async def test_what_ships_logs_is_imported_only_where_it_is_asked_for(ships: bool, tmp_path: Path) -> None:
    """And a collector that cannot be reached holds nothing up, neither at work nor at the end."""
    settings = {"OTLP_ENDPOINT": "https://127.0.0.1:9", "OTLP_FOLDER": str(tmp_path)} if ships else {}
    async with run_api_server() as server:
        server.default_response = empty_cluster
        async with living(tmp_path, server, PYTHONPROFILEIMPORTTIME="1", **settings) as life:
            await life.says("listed")
            life.process.terminate()
            async with asyncio.timeout(GRACE_SECONDS / 2):
                await life.says("stopped")
                out, err = await life.process.communicate()
            assert life.process.returncode == 0
    assert ("controller.observability.otlp" in err.decode()) is ships
    said = [json.loads(line)["message"] for line in out.decode().splitlines()]
    assert [message.endswith("log lines were not shipped") for message in said[-1:]] == [True] * ships
    assert all("not shipped" in message for message in said)


@pytest.mark.parametrize(("akv_sync", "asks"), [("true", True), ("false", False)])
async def test_akvsyncs_are_asked_for_where_they_are_served(akv_sync: str, asks: bool, tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = empty_cluster
        async with living(tmp_path, server, AKV_SYNC=akv_sync) as life:
            await life.says("listed")
            life.process.terminate()
            await life.says("stopped")
            assert (await life.ends())[0] == 0
    assert any("/akvsyncs" in one.path for one in server.requests) is asks


async def test_a_cluster_without_the_akvsync_crd_has_its_secretsyncs_served(tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = lambda asked: (
            error_response(404) if "/akvsyncs" in asked.path else empty_cluster(asked)
        )
        async with living(tmp_path, server) as life:
            started = await life.says("started")
            await life.says("listed")
            assert await life.probe(started["health_port"], "/readyz") == (200, "ok\n")
            life.process.terminate()
            # … and nobody waits for what has never begun.
            async with asyncio.timeout(GRACE_SECONDS / 2):
                await life.says("stopped")
            assert (await life.ends())[0] == 0


async def test_a_follower_is_ready_sends_nothing_and_ends_at_once(tmp_path: Path) -> None:
    lease = {"metadata": {"name": "l", "namespace": "default"}, "spec": {"holderIdentity": "another"}}
    async with run_api_server() as server:
        server.default_response = lambda asked: (
            ScriptedResponse(lease) if "/leases/" in asked.path else empty_cluster(asked)
        )
        async with living(tmp_path, server, LEASE_NAME="l") as life:
            started = await life.says("started")
            assert (await life.says("following"))["leader"] == "another"
            assert await life.probe(started["health_port"], "/readyz") == (200, "ok\n")
            assert "akv_secret_store_leader 0.0" in (await life.probe(started["port"], "/metrics"))[1]
            life.process.terminate()
            assert (await life.ends())[0] == 0
    # Each asks, by a dry run, whether another release serves its namespaces.
    assert {asked.method for asked in server.requests if asked.query.get("dryRun") != "All"} == {"GET"}


async def test_not_ready_while_another_release_serves_the_namespaces(tmp_path: Path) -> None:
    said = "release home/scribe serves all namespaces"
    denial = f"{said}; scribe-1_ab leads it since its renewal at 2026-01-01T00:00:00.000000Z"
    denied = error_response(
        422,
        "leases.coordination.k8s.io \"l\" is forbidden: ValidatingAdmissionPolicy 'overlap.scribe.home' with binding"
        f" 'overlap.scribe.home' denied request: {denial}",
    )
    async with run_api_server() as server:
        server.default_response = lambda asked: denied if asked.method == "POST" else empty_cluster(asked)
        async with living(tmp_path, server, LEASE_NAME="l") as life:
            started = await life.says("started")
            while "listing" in (answer := await life.probe(started["health_port"], "/readyz"))[1]:
                pass
            assert answer[0] == 503
            assert answer[1].startswith(f"{said}, and scribe-1_ab leads it; uninstall one of the two")
            assert "akv_secret_store_leader 0.0" in (await life.probe(started["port"], "/metrics"))[1]
            life.process.terminate()
            assert (await life.ends())[0] == 0
    assert {asked.method for asked in server.requests if asked.query.get("dryRun") != "All"} == {"GET"}


async def test_not_ready_while_the_policies_are_not_in_force(tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = lambda asked: ScriptedResponse({}) if asked.method == "POST" else empty_cluster(asked)
        async with living(tmp_path, server, PROBE_SECRET_TYPE="example.com/no", POLICIES_NAME="mine") as life:
            started = await life.says("started")
            said = "the API server allowed a request that the policy secrets.mine forbids"
            while said not in (answer := await life.probe(started["health_port"], "/readyz"))[1]:
                pass
            assert answer == (503, f"the admission policies are not in force yet: {said}\n")
            assert (await life.probe(started["health_port"], "/healthz"))[0] == 200
            life.process.terminate()
            assert (await life.ends())[0] == 0


async def test_not_ready_while_the_api_server_refuses_and_it_says_why(tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = lambda _: error_response(403, "secretsyncs is forbidden")
        async with living(tmp_path, server) as life:
            started = await life.says("started")
            while "listing" in (answer := await life.probe(started["health_port"], "/readyz"))[1]:
                pass
            assert answer == (503, "secretsyncs is forbidden\nsecretsyncs is forbidden\n")
            life.process.terminate()
            assert (await life.ends())[0] == 0
