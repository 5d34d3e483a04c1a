"""Demonstrate the life of one secret: from a Key Vault into a Kubernetes Secret, a rotation and an outage.

story.py has the steps. This module has the command line, starts the cluster and removes everything at the end.
"""

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.cli.common import command, helm, printable, sse_guide
from tools.demonstration import story
from tools.demonstration.existing_cluster import ExistingCluster
from tools.demonstration.stage import Console, StageError
from tools.keyvault_emulator import Emulator
from tools.keyvault_emulator.errors import EmulatorError
from tools.local_cluster import BadInput, ClusterError, ControlPlane
from tools.pods.pod_emulation import WorkloadError
from tools.pods.pod_process import PodProcess


def play(folder: Path, kubeconfig: Path | None, *, yes: bool, keep: bool) -> None:
    """Run all steps in `folder`, and stop everything that was started. Raise the errors that `main` prints."""
    with contextlib.ExitStack() as stack:
        work = folder / "work"
        (folder / "bin").mkdir()
        work.mkdir()
        (work / "chart").symlink_to(helm.CHART)
        if kubeconfig:
            existing = ExistingCluster(kubeconfig, folder)
            _ask_consent(existing, yes=yes)
        stage = Console(_command_environment(folder), work)
        stage.step("A Kubernetes " + ("cluster" if kubeconfig else "control plane: etcd, API server, controllers"))
        cluster = existing if kubeconfig else stack.enter_context(ControlPlane(folder / "cluster"))
        for name, path in (("kubectl", cluster.kubectl_path), ("helm", helm.find_executable())):
            (folder / "bin" / name).symlink_to(path)
        stage.env["KUBECONFIG"] = str(cluster.kubeconfig)
        stage.run("kubectl version")
        emulator = Emulator(folder / "emulator")
        stack.push(emulator)
        (work / "emulator-ca.pem").symlink_to(emulator.ca_file)
        script = story.DemoScript(stage, cluster, emulator)
        script.set_up_azure()
        if isinstance(cluster, ExistingCluster):
            stack.callback(
                _remove_objects, stage, cluster, [name for name in story.CRDS if not cluster.exists("crd", name)]
            )
        deployment = script.install_chart()
        controller = PodProcess.of_deployment(cluster, helm.RELEASE, deployment, folder)
        stack.callback(controller.kill)
        try:
            script.start_controller(controller)
            script.sync_secret()
            script.rotate_secret()
            script.cut_off_vault()
            script.restart_controller(controller)
            script.restore_vault()
        except (StageError, WorkloadError):
            print(f"\nThe end of the controller's log:\n{controller.tail()}", flush=True)
            raise
        stage.report()
        if keep:
            _keep_running(stage, controller, emulator)


def _command_environment(folder: Path) -> dict[str, str]:
    """Return the environment of the commands: the caller's, with the programs and folders of the demo."""
    own = {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "KUBECACHEDIR": str(folder / "kubectl"),
    }
    return helm.isolated_environment(folder / "helm") | own


def _ask_consent(cluster: ExistingCluster, *, yes: bool) -> None:
    """Ask for consent before the demo writes to an existing cluster. Raise `BadInput` without it."""
    for name in (story.NAMESPACE, helm.RELEASE):
        if cluster.exists("namespace", name):
            raise BadInput(f"the namespace {name} exists in the cluster at {cluster.url}: the demo needs its own, so"
                           " delete it, or use another cluster")  # fmt: skip
    if yes:
        return
    what = f"the namespaces {story.NAMESPACE} and {helm.RELEASE}, CRDs, Roles and admission policies"
    if not (sys.stdin and sys.stdin.isatty()):
        raise BadInput(f"the demo writes to the cluster at {cluster.url} ({what}): add --yes")
    print(f"The demo writes to the cluster at {cluster.url}: {what}. It removes them at the end.")
    if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise BadInput("nothing was written")


def _remove_objects(stage: Console, cluster: ExistingCluster, crds: Sequence[str]) -> None:
    """Remove the demo's objects from an existing cluster. `crds` are the CRDs that did not exist before."""
    stage.say("\nRemoving the objects of the demo from the cluster")
    stage.run(f"kubectl delete namespace {story.NAMESPACE} --ignore-not-found", expect=None)
    stage.run(f"helm uninstall {helm.RELEASE} --namespace {helm.RELEASE} --no-hooks --ignore-not-found", expect=None)
    stage.run(f"kubectl delete namespace {helm.RELEASE} --ignore-not-found", expect=None)
    if crds:
        stage.run("kubectl delete crd --ignore-not-found " + " ".join(crds), expect=None)


def _keep_running(stage: Console, controller: PodProcess, emulator: Emulator) -> None:
    """Print how to use the running components, and wait for a signal."""
    connection = json.loads((emulator.directory / "connection.json").read_text())
    body = json.dumps({"vault": story.VAULT, "name": story.OBJECT, "value": "mine"})
    stage.say("\nEverything keeps running. In another terminal:")
    for name in ("PATH", "KUBECONFIG", *sse_guide.VARIABLES):
        value = shlex.quote(stage.env[name]) if name != "PATH" else f'"{stage.folder.parent / "bin"}:$PATH"'
        stage.say(f"  export {name}={value}")
    stage.say("A new version in the vault:")
    stage.say(f"  curl --cacert {emulator.ca_file} -H 'Authorization: Bearer {connection['key']}' \\")
    stage.say(f"    -d '{body}' {connection['control']}/control/set_secret")
    stage.say(f"The controller's log: {controller.log}")
    stage.say(f"To stop and remove everything: Ctrl-C here, or: kill {os.getpid()}")
    signal.pause()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code; see `--help`."""
    parser = command.ToolParser(
        prog="tools/demo",
        description="Demonstrate the life of one secret: from an (emulated) Key Vault into a Kubernetes Secret, through"
        " a rotation and an outage. Takes less than a minute, needs no root, and leaves nothing behind.",
        epilog="Exit codes: 0 every claim held; 1 one did not, or something failed; 2 bad input; 130 Ctrl-C.",
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    parser.add_argument(
        "--kubeconfig",
        type=command.parse_path,
        metavar="FILE",
        help="use the cluster of its current context instead of starting one; its API server is not restarted",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before writing to that cluster")
    args = parser.parse_args(argv)
    if args.kubeconfig and not args.kubeconfig.is_file():
        parser.error(f"--kubeconfig {args.kubeconfig}: there is no such file")
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="akv-demo-", ignore_cleanup_errors=True) as folder:
        try:
            play(Path(folder), args.kubeconfig, yes=args.yes, keep=args.keep)
        except BadInput as error:
            command.print_problem("tools/demo", error)
            return 2
        except (StageError, WorkloadError, ClusterError, EmulatorError, helm.HelmError, OSError) as error:
            print(printable.block(f"\ntools/demo: {error}"), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nstopped; nothing is left running", file=sys.stderr)
            return 0 if args.keep else 130
    print("\nEverything that was claimed was checked. Nothing is left running.")
    return 0


def end_on_signals() -> None:
    """Handle SIGINT, SIGTERM and SIGHUP like Ctrl-C, which stops and removes everything."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    command.run_and_exit("tools/demo", main)
