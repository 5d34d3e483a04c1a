"""Test the program as the container starts it: help, exit codes, readiness, and the end after SIGTERM."""

import asyncio
import contextlib
import inspect
import json
import os
import socket
import sys
from asyncio import sslproto
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from controller.__main__ import GC_THRESHOLD
from controller.app import GRACE_SECONDS
from controller.config.settings import Settings
from controller.kube.leader_election import RETRY_PERIOD
from controller.kube.policy_guard import NEVER_WRITTEN, ONE_AUDIENCE
from tests.support.scripted_api_server import (
    ReceivedRequest,
    ScriptedApiServer,
    ScriptedResponse,
    error_response,
    run_api_server,
    write_kubeconfig,
)
from tests.unit.kube.informer.informer_harness import make_item, make_list

ROOT = Path(__file__).parents[2]
LOOPBACK = {"LISTEN_ADDRESS": "127.0.0.1", "LISTEN_PORT": "0", "HEALTH_PORT": "0"}


async def start_program(*arguments: str, program: str = "", **environment: str) -> asyncio.subprocess.Process:
    """Start the program with only the variables of this process that it needs to run.

    With `program`, start that text instead, which calls the controller.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P"),
        *(("-c", program) if program else ("-m", "controller")),
        *arguments,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run_until_exit(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """Return exit code, stdout and stderr of a program that ends by itself."""
    process = await start_program(*arguments, **environment)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_help_lists_every_setting_with_its_meaning_and_default() -> None:
    code, out, err = await run_until_exit("run", "--help")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for field in msgspec.structs.fields(Settings):
        line = lines[field.name.upper()]
        meaning = line.removeprefix(f"  {field.name.upper()}").split("(default:")[0].strip()
        assert len(meaning) > 15, line
        assert f"(default: {field.default!r})" in line
    assert "KUBECONFIG" in lines


async def test_help_lists_the_subcommands() -> None:
    code, out, err = await run_until_exit("--help")
    assert (code, err) == (0, "")
    assert "run the controller until SIGTERM (the default)" in " ".join(out.split())
    code, out, err = await run_until_exit("upgrade-crds", "--help")
    assert (code, err) == (0, "")
    assert "to a superset of the served ones" in " ".join(out.split())


async def test_unknown_subcommand_is_refused_with_the_known_ones() -> None:
    code, out, err = await run_until_exit("crds", "/etc/crds")
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
async def test_unusable_setting_is_reported_in_one_line_with_exit_code_2(
    environment: dict[str, str], words: list[str]
) -> None:
    code, out, err = await run_until_exit(**environment)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


async def test_argument_overrides_the_environment() -> None:
    code, _, err = await run_until_exit("--log-level=loud", "--jitter", "5", LOG_LEVEL="info")
    assert code == 2
    assert "LOG_LEVEL is 'loud'" in err


async def test_unknown_argument_ends_with_exit_code_2() -> None:
    code, _, err = await run_until_exit("--nonsense")
    assert code == 2
    assert "--nonsense" in err


async def test_port_in_use_is_reported_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        code, _, err = await run_until_exit(
            KUBECONFIG=write_kubeconfig(tmp_path, "http://127.0.0.1:9"), LISTEN_ADDRESS="127.0.0.1", LISTEN_PORT=port
        )
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert port in err


def test_asyncio_reads_the_size_of_its_tls_buffer_from_max_size() -> None:
    assert "bytearray(self.max_size)" in inspect.getsource(sslproto.SSLProtocol.__init__)


async def test_garbage_collector_runs_rarely_and_skips_imported_modules() -> None:
    program = """
import gc
from controller import __main__, app
async def run(settings):
    print(gc.get_threshold()[0], gc.get_freeze_count() > len(gc.get_objects()))
app.run = run
__main__.main()
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", program), env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode() == f"{GC_THRESHOLD} True\n"


class RunningController:
    """A running controller with its log and its probes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []

    async def wait_for_line(self, message: str) -> dict[str, Any]:
        """Wait without a timeout for a line with this message. Each line must be JSON."""
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            self.log.append(json.loads(line))
            if self.log[-1]["message"] == message:
                return self.log[-1]
        raise AssertionError(f"the controller ended without the line {message!r}: {self.log}")

    async def probe(self, port: int, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()

    async def wait_for_exit(self) -> tuple[int | None, str]:
        _, err = await asyncio.wait_for(self.process.communicate(), GRACE_SECONDS / 2)
        return self.process.returncode, err.decode()


@contextlib.asynccontextmanager
async def run_controller(
    folder: Path, server: ScriptedApiServer, **environment: str
) -> AsyncIterator[RunningController]:
    controller = RunningController(
        await start_program(KUBECONFIG=write_kubeconfig(folder, server.url), **LOOPBACK, **environment)
    )
    try:
        yield controller
    finally:
        if controller.process.returncode is None:
            controller.process.kill()
            await controller.process.communicate()


def answer_as_empty_cluster(request: ReceivedRequest) -> ScriptedResponse:
    """Answer with empty lists and open watches, and refuse dry runs by policy."""
    if request.method == "POST":
        kind, message = ("tokens", ONE_AUDIENCE) if request.path.endswith("/token") else ("secrets", NEVER_WRITTEN)
        policy = f"'{kind}.mine'"
        return error_response(
            422, f"ValidatingAdmissionPolicy {policy} with binding {policy} denied request: {message}"
        )
    if request.is_watch:
        return ScriptedResponse(held=True)
    return ScriptedResponse({"metadata": {"resourceVersion": "1"}, "items": []})


async def test_controller_is_ready_after_listing_and_ends_soon_after_sigterm(tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = answer_as_empty_cluster
        async with run_controller(
            tmp_path, server, PROBE_SECRET_TYPE="example.com/no", POLICIES_NAME="mine"
        ) as controller:
            started = await controller.wait_for_line("started")
            assert (await controller.wait_for_line("listed"))["secretsyncs"] == 0
            assert await controller.probe(started["health_port"], "/readyz") == (200, "ok\n")
            assert await controller.probe(started["health_port"], "/healthz") == (200, "ok\n")
            assert "akv_secret_store_queue_due 0.0" in (await controller.probe(started["port"], "/metrics"))[1]
            controller.process.terminate()
            # No work was in progress, so the end has nothing to wait for.
            async with asyncio.timeout(GRACE_SECONDS / 2):
                await controller.wait_for_line("stopping")
                await controller.wait_for_line("stopped")
                assert await controller.wait_for_exit() == (0, "")
    assert [request.query.get("dryRun") for request in server.requests if request.method == "POST"] == ["All", None]


@pytest.mark.parametrize("enabled", [False, True])
async def test_log_export_is_imported_only_if_it_is_configured(enabled: bool, tmp_path: Path) -> None:
    """Check also that a collector that cannot be reached delays neither the start nor the end."""
    settings = {"OTLP_ENDPOINT": "https://127.0.0.1:9", "OTLP_FOLDER": str(tmp_path)} if enabled else {}
    async with run_api_server() as server:
        server.default_response = answer_as_empty_cluster
        async with run_controller(tmp_path, server, PYTHONPROFILEIMPORTTIME="1", **settings) as controller:
            await controller.wait_for_line("listed")
            controller.process.terminate()
            async with asyncio.timeout(GRACE_SECONDS / 2):
                await controller.wait_for_line("stopped")
                out, err = await controller.process.communicate()
            assert controller.process.returncode == 0
    assert ("controller.observability.otlp" in err.decode()) is enabled
    messages = [json.loads(line)["message"] for line in out.decode().splitlines()]
    assert [message.endswith("log lines were not shipped") for message in messages[-1:]] == [True] * enabled
    assert all("not shipped" in message for message in messages)


async def test_akvsyncs_are_not_listed_if_they_are_disabled(tmp_path: Path) -> None:
    """The next test shows that they are listed otherwise."""
    async with run_api_server() as server:
        server.default_response = answer_as_empty_cluster
        async with run_controller(tmp_path, server, AKV_SYNC="false") as controller:
            await controller.wait_for_line("listed")
            controller.process.terminate()
            await controller.wait_for_line("stopped")
            assert (await controller.wait_for_exit())[0] == 0
    assert not any("/akvsyncs" in request.path for request in server.requests)


async def test_controller_becomes_ready_without_the_akvsync_crd(tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = lambda request: (
            error_response(404) if "/akvsyncs" in request.path else answer_as_empty_cluster(request)
        )
        async with run_controller(tmp_path, server) as controller:
            started = await controller.wait_for_line("started")
            await controller.wait_for_line("listed")
            assert await controller.probe(started["health_port"], "/readyz") == (200, "ok\n")
            controller.process.terminate()
            # The controller ends although the reconciler of AKVSyncs never started.
            async with asyncio.timeout(GRACE_SECONDS / 2):
                await controller.wait_for_line("stopped")
            assert (await controller.wait_for_exit())[0] == 0
    assert any("/akvsyncs" in request.path for request in server.requests)


# The controller without the half minute in which it waits for a refused namespace.
IMPATIENT = """
from controller import __main__
from controller.kube import informer
informer.REFUSED_PATIENCE = 0.0
__main__.main()
"""


async def test_deleted_namespace_does_not_stop_the_others(tmp_path: Path) -> None:
    """A namespace's administrator can delete it, or the release's Role there, and then the controller restarts."""
    async with run_api_server() as server:
        server.default_response = lambda request: (
            error_response(403, "gone") if "/namespaces/gone/" in request.path else answer_as_empty_cluster(request)
        )
        async with run_controller(tmp_path, server, program=IMPATIENT, WATCH_NAMESPACES="gone,shop") as controller:
            started = await controller.wait_for_line("started")
            await controller.wait_for_line("listed")
            # The operator must notice it.
            assert await controller.probe(started["health_port"], "/readyz") == (
                503,
                "gone\nwaits for the list of secretproviderclasses\n",
            )
            assert "akv_secret_store_leader 1.0" in (await controller.probe(started["port"], "/metrics"))[1]


async def test_secretsyncs_of_a_refused_namespace_are_not_reported_as_without_a_class(tmp_path: Path) -> None:
    """When the Role is restored, or allows only a part, the informers of the namespace succeed at different times."""
    status = {"conditions": [{"type": "Ready", "status": "True", "reason": "Synced"}]}
    synced = {**make_item("a"), "status": status}
    allowed, listed = asyncio.Event(), asyncio.Event()

    def answer(request: ReceivedRequest) -> ScriptedResponse:
        if request.path.endswith("/team/secretproviderclasses") and not allowed.is_set():
            return error_response(403, "gone")
        if request.path.endswith("/team/secretsyncs") and not request.is_watch:
            return make_list(synced)
        if request.path.endswith("/team/akvsyncs"):
            listed.set()
        return answer_as_empty_cluster(request)

    async with run_api_server() as server:
        server.default_response = answer
        async with run_controller(tmp_path, server, program=IMPATIENT, WATCH_NAMESPACES="team,shop") as controller:
            started = await controller.wait_for_line("started")
            await controller.wait_for_line("listed")
            await asyncio.sleep(1)
            paths = [request.path for request in server.requests if "/team/" in request.path]
            assert {path.rpartition("/")[2] for path in paths} == {"secretproviderclasses"}
            problems = "gone\nwaits for the list of secretproviderclasses\n"
            assert await controller.probe(started["health_port"], "/readyz") == (503, problems)
            allowed.set()
            async with asyncio.timeout(20):
                await listed.wait()
            assert await controller.probe(started["health_port"], "/readyz") == (200, "ok\n")


async def test_follower_is_ready_writes_nothing_and_ends_at_once(tmp_path: Path) -> None:
    lease = {"metadata": {"name": "l", "namespace": "default"}, "spec": {"holderIdentity": "another"}}
    async with run_api_server() as server:
        server.default_response = lambda request: (
            ScriptedResponse(lease) if "/leases/" in request.path else answer_as_empty_cluster(request)
        )
        async with run_controller(tmp_path, server, LEASE_NAME="l") as controller:
            started = await controller.wait_for_line("started")
            assert (await controller.wait_for_line("following"))["leader"] == "another"
            assert await controller.probe(started["health_port"], "/readyz") == (200, "ok\n")
            assert "akv_secret_store_leader 0.0" in (await controller.probe(started["port"], "/metrics"))[1]
            controller.process.terminate()
            assert (await controller.wait_for_exit())[0] == 0
    # Each process checks by a dry run whether another release serves its namespaces.
    assert {request.method for request in server.requests if request.query.get("dryRun") != "All"} == {"GET"}


async def test_process_leads_as_soon_as_the_overlap_check_is_answered(tmp_path: Path) -> None:
    lease = {"metadata": {"name": "l", "namespace": "default"}, "spec": {}}

    def answer(request: ReceivedRequest) -> ScriptedResponse:
        if request.query.get("dryRun") == "All":
            return ScriptedResponse({}, status=201, delay=0.5)
        return ScriptedResponse(lease) if "/leases/" in request.path else answer_as_empty_cluster(request)

    async with run_api_server() as server:
        server.default_response = answer
        async with run_controller(tmp_path, server, LEASE_NAME="l") as controller:
            listed = await controller.wait_for_line("listed")
            leading = await controller.wait_for_line("leading")
            controller.process.terminate()
            assert (await controller.wait_for_exit())[0] == 0
    before, after = (datetime.fromisoformat(line["time"]) for line in (listed, leading))
    assert (after - before).total_seconds() < RETRY_PERIOD / 2


async def test_not_ready_while_another_release_serves_the_namespaces(tmp_path: Path) -> None:
    overlap = "release home/scribe serves all namespaces"
    denial = f"{overlap}; scribe-1_ab leads it since its renewal at 2026-01-01T00:00:00.000000Z"
    denied = error_response(
        422,
        "leases.coordination.k8s.io \"l\" is forbidden: ValidatingAdmissionPolicy 'overlap.scribe.home' with binding"
        f" 'overlap.scribe.home' denied request: {denial}",
    )
    async with run_api_server() as server:
        server.default_response = lambda request: (
            denied if request.method == "POST" else answer_as_empty_cluster(request)
        )
        async with run_controller(tmp_path, server, LEASE_NAME="l") as controller:
            started = await controller.wait_for_line("started")
            expected = f"{overlap}, and scribe-1_ab leads it; uninstall one of the two"
            while expected not in (answer := await controller.probe(started["health_port"], "/readyz"))[1]:
                pass
            assert answer[0] == 503
            assert answer[1].startswith(expected)
            assert "akv_secret_store_leader 0.0" in (await controller.probe(started["port"], "/metrics"))[1]
            controller.process.terminate()
            assert (await controller.wait_for_exit())[0] == 0
    assert {request.method for request in server.requests if request.query.get("dryRun") != "All"} == {"GET"}


async def test_not_ready_while_the_policies_are_not_in_force(tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = lambda request: (
            ScriptedResponse({}) if request.method == "POST" else answer_as_empty_cluster(request)
        )
        async with run_controller(
            tmp_path, server, PROBE_SECRET_TYPE="example.com/no", POLICIES_NAME="mine"
        ) as controller:
            started = await controller.wait_for_line("started")
            cause = "the API server allowed a request that the policy secrets.mine forbids"
            while cause not in (answer := await controller.probe(started["health_port"], "/readyz"))[1]:
                pass
            assert answer == (503, f"the admission policies are not in force yet: {cause}\n")
            assert (await controller.probe(started["health_port"], "/healthz"))[0] == 200
            controller.process.terminate()
            assert (await controller.wait_for_exit())[0] == 0


async def test_not_ready_while_the_api_server_refuses_lists(tmp_path: Path) -> None:
    async with run_api_server() as server:
        server.default_response = lambda _: error_response(403, "secretsyncs is forbidden")
        async with run_controller(tmp_path, server) as controller:
            started = await controller.wait_for_line("started")
            expected = (503, "secretsyncs is forbidden\nsecretsyncs is forbidden\n")
            while await controller.probe(started["health_port"], "/readyz") != expected:
                pass
            controller.process.terminate()
            assert (await controller.wait_for_exit())[0] == 0
