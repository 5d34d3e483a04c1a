"""Test the emulator as a process: its start and end, command line, control key and log."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from tests.support.certificates import encode_pem_bundle, issue_certificate
from tests.unit.keyvault_emulator.emulator_harness import CLIENT, TENANT, VAULT, EmulatorHarness
from tools.keyvault_emulator import Emulator, EmulatorError
from tools.keyvault_emulator.__main__ import main

ROOT = Path(__file__).parents[3]
CANARY = "canary-2f1a9c"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.keyvault_emulator", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_emulator_starts_fast_and_keeps_its_state_over_a_restart(tmp_path: Path) -> None:
    start = time.monotonic()
    with Emulator(tmp_path / "emulator") as emulator:
        assert time.monotonic() - start < 5  # under 1.5 s when nothing else runs
        emulator.add_vault(VAULT, TENANT)
        emulator.add_identity(CLIENT, TENANT)
        version = emulator.set_secret(VAULT, "pin", "1", expires=datetime(2099, 1, 1, tzinfo=UTC))
        emulator.import_certificate(VAULT, "web", encode_pem_bundle(issue_certificate("shop")))
        emulator.delete_secret(VAULT, "web", kind="certificates")
        before = json.loads(emulator.call("dump"))
        url, ca = emulator.url, emulator.ca_file.read_bytes()
        emulator.fail(503)
        emulator.restart()
        assert (emulator.url, emulator.ca_file.read_bytes()) == (url, ca)
        assert json.loads(emulator.call("dump")) == before
        assert before["vaults"][VAULT]["secrets"]["pin"]["versions"][0]["id"] == version
        emulator.kill()
        emulator.start()
        assert json.loads(emulator.call("dump")) == before


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", "", "text"])
def test_body_of_a_fault_is_sent_unchanged(body: str | bytes, tmp_path: Path) -> None:
    with Emulator(tmp_path / "emulator") as emulator:
        emulator.add_vault(VAULT, TENANT)
        emulator.fail(503, body=body)
        answer = requests.get(f"{emulator.url}/{VAULT}/secrets/pin", verify=str(emulator.ca_file), timeout=10)
    assert (answer.status_code, answer.content) == (503, body.encode() if isinstance(body, str) else body)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_ipv4_or_ipv6_address_serves_vaults_and_entra(address: str, tmp_path: Path) -> None:
    with Emulator(tmp_path, address=address) as emulator:
        emulator.add_vault(VAULT, TENANT)
        for path in (f"{VAULT}/secrets/pin", f"{TENANT}/v2.0/.well-known/openid-configuration"):
            answer = requests.get(f"{emulator.url}/{path}", verify=str(emulator.ca_file), timeout=5)
            assert answer.status_code == (401 if "secrets" in path else 200)
        # The discovery document has the same address.
        assert emulator.url in answer.json()["token_endpoint"]


def test_killed_parent_ends_the_emulator(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import pathlib, time
        from tools.keyvault_emulator import Emulator
        with Emulator(pathlib.Path({str(tmp_path)!r})) as emulator:
            print(emulator._process.pid, emulator.url.rpartition(":")[2], flush=True)
            time.sleep(60)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid, port = map(int, parent.stdout.readline().split())
    socket.create_connection(("127.0.0.1", port), 5).close()
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def has_ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    deadline = time.monotonic() + 10
    while not has_ended() and time.monotonic() < deadline:
        time.sleep(0.02)
    if not has_ended():
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the emulator outlived its parent")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_control_call_without_the_key_is_refused(emulator_harness: EmulatorHarness) -> None:
    connection = json.loads((emulator_harness.emulator.directory / "connection.json").read_text())
    url, ca = f"{connection['control']}/control/counters", str(emulator_harness.emulator.ca_file)
    assert requests.post(url, verify=ca, timeout=5).status_code == 401
    wrong = {"Authorization": f"Bearer {connection['key'][:-1]}"}
    assert requests.post(url, headers=wrong, verify=ca, timeout=5).status_code == 401
    right = {"Authorization": f"Bearer {connection['key']}"}
    assert requests.post(url, headers=right, verify=ca, timeout=5).json() == {"result": {}}
    assert (
        requests.post(
            f"{emulator_harness.emulator.url}/control/counters", headers=right, verify=ca, timeout=5
        ).status_code
        == 404
    )
    for name in ("connection.json", "ca.key", "entra.key", "server.pem"):
        assert (emulator_harness.emulator.directory / name).stat().st_mode & 0o077 == 0, name


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("explode", {}, "'explode' is not a verb; the verbs are add_identity, add_tenant"),
        ("set_secret", {"vault": VAULT}, "missing required field `name`"),
        ("cut_off", {"now": True}, "unknown field `now`"),
        ("set_secret", {"vault": "none", "name": "a", "value": "b"}, f"vault: 'none' does not exist; known: {VAULT}"),
        ("set_secret", {"vault": VAULT, "name": "a_b", "value": "b"}, "name: 'a_b' is not a valid name in Key Vault"),
        ("federate", {"client_id": "none", "issuer": "a", "subject": "b"}, "client_id: 'none' does not exist"),
        ("set_attributes", {"vault": VAULT, "name": "a"}, "has no secret named 'a'"),
        ("delete", {"vault": VAULT, "name": "a"}, "has no secret 'a'"),
        ("import_certificate", {"vault": VAULT, "name": "a", "data": "%"}, "data: is not base64"),
        ("add_vault", {"name": VAULT, "tenant": "other"}, f"name: '{VAULT}' exists in tenant {TENANT}"),
        ("add_identity", {"client_id": CLIENT, "tenant": "other"}, f"{CLIENT} exists in tenant {TENANT}"),
        ("create_key", {"vault": VAULT, "name": "a", "kty": "oct"}, "kty: 'oct' is not known"),
        ("load", {"text": "vaults: 1"}, "Expected `object`, got `int` - at `$.vaults`"),
    ],
)
def test_invalid_control_call_names_the_mistake(
    emulator_harness: EmulatorHarness, verb: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(EmulatorError) as refused:
        emulator_harness.emulator.call(verb, **arguments)
    assert message in str(refused.value)


def test_time_without_a_zone_is_refused(emulator_harness: EmulatorHarness) -> None:
    with pytest.raises(EmulatorError, match="has no time zone"):
        emulator_harness.emulator.set_secret(VAULT, "a", "b", expires=datetime(2099, 1, 1))  # noqa: DTZ001


def test_unknown_version_error_names_the_existing_ones(emulator_harness: EmulatorHarness) -> None:
    version = emulator_harness.emulator.set_secret(VAULT, "pin", "1")
    with pytest.raises(EmulatorError, match=f"'pin' has no version 'other'; it has {version}"):
        emulator_harness.emulator.disable_secret(VAULT, "pin", "other")


def test_values_are_written_to_no_log_or_error(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    emulator_harness.emulator.set_secret(VAULT, "pin", CANARY)
    emulator_harness.emulator.set_secret(VAULT, "pin", CANARY, enabled=False)
    with pytest.raises(EmulatorError) as refused:
        emulator_harness.emulator.call("set_secret", vault=VAULT, name="pin", value=CANARY, enabled=CANARY[:6])
    with emulator_harness.secrets() as client:
        assert [each.name for each in client.list_properties_of_secrets()] == ["pin"]
    emulator_harness.emulator.restart()
    assert CANARY not in str(refused.value)
    for file in emulator_harness.emulator.directory.iterdir():
        assert CANARY.encode() not in file.read_bytes(), file
    assert "set_secret" in (emulator_harness.emulator.directory / "emulator.log").read_text()


def test_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "entra.key").write_text("rubbish")
    with pytest.raises(EmulatorError, match=r"did not start(.|\n)*entra\.key"), Emulator(tmp_path):
        pass


def test_help_explains_the_main_options() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for text in ("--state", "a state file (YAML or JSON)", "Authorization: Bearer", "exit codes"):
        assert text in shown.stdout


def test_state_file_is_loaded_with_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "web.pem").write_bytes(encode_pem_bundle(issue_certificate("shop")))
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----")
    state = tmp_path / "state.yaml"
    state.write_text(
        f"""
issuers:
  https://127.0.0.1:6443: {{caFile: ca.pem}}
identities:
  {CLIENT.upper()}:
    tenant: {TENANT}
    federated: [{{issuer: "https://127.0.0.1:6443", subject: "system:serviceaccount:shop:shop"}}]
    roles: {{{VAULT}: [Key Vault Secrets User]}}
vaults:
  {VAULT}:
    tenant: {TENANT}
    secrets: {{db-password: {{versions: [{{value: old}}, {{value: new}}]}}}}
    certificates: {{web: {{versions: [{{file: web.pem}}]}}}}
"""
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.keyvault_emulator", "--state", str(state), "--directory", str(tmp_path / "d")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        with process.stdout:
            connection = json.loads(process.stdout.readline())
        assert "key" not in connection
        secret = json.loads((tmp_path / "d" / "connection.json").read_text())["key"]
        answer = requests.post(
            f"{connection['control']}/control/dump",
            headers={"Authorization": f"Bearer {secret}"},
            verify=connection["ca"],
            timeout=5,
        ).json()
        vault = json.loads(answer["result"])["vaults"][VAULT]
        assert [each["value"] for each in vault["secrets"]["db-password"]["versions"]] == ["old", "new"]
        assert vault["certificates"]["web"]["versions"][0]["jwk"]["kty"] == "EC"
        taken = run("--port", connection["url"].rpartition(":")[2])
        assert (taken.returncode, "is in use" in taken.stderr) == (2, True)
    finally:
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vaults: {a: {}}", "missing required field `tenant` - at `$.vaults[...]`"),
        ("vaults: {a: {tenant: t, secret: {}}}", "unknown field `secret`"),
        ("vaults: [", "the state cannot be read"),
        (
            "vaults: {a: {tenant: t, certificates: {web: {versions: [{}]}}}}",
            "vaults.a.certificates.web: a version needs",
        ),
        ("vaults: {a: {tenant: t, keys: {k: {versions: [{}]}}}}", "vaults.a.keys.k: a version needs `jwk`"),
        ("vaults: {a: {tenant: t, keys: {k: {versions: [{jwk: {kty: oct}}]}}}}", "'oct' is not known; use RSA"),
        (
            "vaults: {a: {tenant: t, secrets: {Web: {versions: [{value: x}]}}, keys: {}, certificates: {web: {}}}}",
            "vaults.a.certificates: 'web' is also the name of a secret or key",
        ),
        (
            "vaults: {a: {tenant: t, certificates: {w: {versions: [{file: no.pem}]}}}}",
            "no.pem: cannot be read",
        ),
        (
            "identities: {a: {tenant: t, roles: {v: [Boss]}}}",
            "Invalid enum value 'Boss' - at `$.identities[...].roles",
        ),
        (
            "vaults: {a: {tenant: t, secrets: {a_b: {versions: [{value: x}]}}}}",
            "'a_b' is not a valid name in Key Vault",
        ),
    ],
)
def test_invalid_state_file_is_refused_with_its_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    state = tmp_path / "state.yaml"
    state.write_text(text)
    assert main(["--state", str(state)]) == 2
    refused = capsys.readouterr().err
    assert message in refused
    assert "Traceback" not in refused


def test_invalid_state_file_path_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--state", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--port", "70000"], "from 0 to 65535"), (["--explode"], "unrecognized")]
)
def test_invalid_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


def test_unusable_address_is_refused(tmp_path: Path) -> None:
    unusable = run("--address", "203.0.113.1", "--directory", str(tmp_path))
    assert unusable.returncode == 1
    assert "cannot listen on 203.0.113.1" in unusable.stderr


def test_executable_runs_from_any_folder(tmp_path: Path) -> None:
    program = ROOT / "tools" / "keyvault-emulator"
    assert os.access(program, os.X_OK)
    shown = subprocess.run([program, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (shown.returncode, "usage: keyvault-emulator" in shown.stdout) == (0, True), shown.stderr
