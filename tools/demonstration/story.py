"""The steps of the demo.

An emulator replaces Azure. Everything else is real: the API server, the chart installed by helm, the controller with
the chart's ServiceAccount and Roles, and the two manifests of the SSE guide.
"""

import json
import time

from controller.kube import permissions
from tools.cli.common import helm, sse_guide
from tools.demonstration.existing_cluster import ExistingCluster
from tools.demonstration.stage import Console
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import PodProcess

POLL_SECONDS = 5
"""The demo's rotationPollIntervalInSeconds. SSE's default of an hour is too long for a demo."""

_NAME = sse_guide.SYNC_NAME
NAMESPACE = sse_guide.VARIABLES["KUBERNETES_NAMESPACE"]
VAULT = sse_guide.VARIABLES["KEYVAULT_NAME"]
OBJECT = sse_guide.VARIABLES["KEYVAULT_SECRET_NAME"]
CRDS = permissions.CRDS.names

_VALUES = """\
rotationPollIntervalInSeconds: {seconds}
defaultCloud: emulator
clouds:
  emulator:
    authority: {authority}
    vaultUrl: {vault_url}
"""


class DemoScript:
    """The script of the demo. Each public method is one or more steps."""

    def __init__(self, stage: Console, cluster: ControlPlane | ExistingCluster, emulator: Emulator) -> None:
        self._stage, self._cluster, self._emulator = stage, cluster, emulator

    def set_up_azure(self) -> None:
        """Create in the emulator the objects that the guide creates with az."""
        stage, emulator, names = self._stage, self._emulator, sse_guide.VARIABLES
        stage.step("A Key Vault and an Entra tenant: the emulator")
        emulator.start()
        tenant, identity = names["AZURE_TENANT_ID"], names["USER_ASSIGNED_CLIENT_ID"]
        subject = f"system:serviceaccount:{NAMESPACE}:{names['SERVICE_ACCOUNT_NAME']}"
        if isinstance(self._cluster, ExistingCluster):
            # Pass the issuer's keys to the emulator: an API server need not publish them to anonymous clients.
            state = stage.folder / "emulator-state.json"
            state.write_text(json.dumps({"issuers": {self._cluster.issuer: {"jwks": self._cluster.jwks}}}))
            emulator.load(state)
        else:
            emulator.trust_issuer(self._cluster.issuer, self._cluster.ca_file)
        emulator.add_vault(VAULT, tenant)
        emulator.set_secret(VAULT, OBJECT, "Hello!")
        emulator.add_identity(identity, tenant)
        emulator.assign_role(identity, VAULT, "Key Vault Reader")
        emulator.assign_role(identity, VAULT, "Key Vault Secrets User")
        emulator.federate(identity, self._cluster.issuer, subject)
        stage.say(f"Entra and the vaults are at {emulator.url}. What the guide does with az was done there:")
        stage.say(f"- vault {VAULT} with the secret {OBJECT}, 'Hello!'")
        stage.say(f"- identity {identity}: Key Vault Reader, Key Vault Secrets User")
        stage.say(f"- federated credential: issuer {self._cluster.issuer}, subject {subject}")

    def install_chart(self) -> str:
        """Install the chart with helm, and return the name of the Deployment."""
        stage, release = self._stage, helm.RELEASE
        stage.step("The chart, installed by helm")
        values = _VALUES.format(
            seconds=POLL_SECONDS, authority=self._emulator.authority, vault_url=self._emulator.vault_pattern
        )
        stage.run(f"cat <<'EOF' > values.yaml\n{values}EOF")
        stage.say("The release's only hook is a Job that updates older CRDs: there are none here, so --no-hooks.")
        stage.run(
            f"helm install {release} ./chart --namespace {release} --create-namespace --no-hooks"
            " --values values.yaml --set-file clouds.emulator.ca=emulator-ca.pem"
        )
        stage.run("kubectl wait --for=condition=Established --timeout=20s crd " + " ".join(CRDS))
        found = stage.run(f"kubectl get deployments --namespace {release} --output name").split()
        stage.expect("the number of Deployments", len(found), 1)
        if isinstance(self._cluster, ExistingCluster):
            stage.say("The controller will run here, where it reaches the emulator, and not in the cluster:")
            stage.run(f"kubectl scale {found[0]} --namespace {release} --replicas=0")
        return found[0].partition("/")[2]

    def start_controller(self, controller: PodProcess) -> None:
        """Start the controller, and check that it cannot read Secrets."""
        stage, release = self._stage, helm.RELEASE
        stage.step("The controller, as a process with the chart's own ServiceAccount")
        stage.say("Without a node there are no pods: the container's arguments, environment and volumes are taken")
        stage.say("from the Deployment, and its token from a TokenRequest.")
        controller.start()
        controller.wait_ready()
        stage.say(f"process {controller.pid} is ready; probes and metrics: {controller.url}")
        stage.say("It writes Secrets and cannot read one:")
        user = f"system:serviceaccount:{release}:{controller.service_account}"
        for verb in ("get", "list"):
            answer = stage.run(f"kubectl auth can-i {verb} secrets --all-namespaces --as={user}", expect=1)
            stage.expect("the answer", answer.strip(), "no")

    def sync_secret(self) -> None:
        """Apply the guide's manifests, and check the Secret."""
        stage = self._stage
        stage.step("The guide's manifests: the Secret appears with both versions")
        # Key Vault's times are whole seconds. The second version must be newer, so it is set later than the first.
        self._emulator.set_secret(VAULT, OBJECT, "Hello2")
        stage.say(f"{OBJECT} gets a second version in the vault, 'Hello2'.")
        for name, value in sse_guide.VARIABLES.items():
            stage.export(name, value)
        stage.run("kubectl create ns ${KUBERNETES_NAMESPACE}")
        stage.run(f"cat <<EOF | kubectl apply -f -\n{sse_guide.SERVICE_ACCOUNT}EOF")
        stage.run(f"cat <<EOF > spc.yaml\n{sse_guide.PROVIDER_CLASS}EOF")
        stage.run(f"cat <<EOF > ss.yaml\n{sse_guide.SECRET_SYNC}EOF")
        stage.run("kubectl apply -f ./spc.yaml")
        stage.run("kubectl apply -f ./ss.yaml")
        stage.wait("the Secret", self._values, ("Hello2", "Hello!"), 20)
        stage.run(f"kubectl wait secretsync {_NAME} -n ${{KUBERNETES_NAMESPACE}} --for=condition=Ready --timeout=10s")
        stage.run("kubectl get secretsyncs -n ${KUBERNETES_NAMESPACE}")
        stage.run("kubectl get secrets -n ${KUBERNETES_NAMESPACE}")
        self._show("Hello2", "Hello!")

    def rotate_secret(self) -> None:
        """Add a version to the vault, and check that the Secret gets it."""
        stage = self._stage
        stage.step("Rotation: the vault gets a third version")
        self._emulator.set_secret(VAULT, OBJECT, "Hello3")
        stage.say(f"{OBJECT} is now 'Hello3' in the vault, and the controller polls the vault every {POLL_SECONDS} s.")
        stage.wait("the new value", self._values, ("Hello3", "Hello2"), POLL_SECONDS + 15)
        self._show("Hello3", "Hello2")

    def cut_off_vault(self) -> None:
        """Cut off the vault, and check that the Secret stays and that the status has the reason."""
        stage = self._stage
        stage.step("The vault and Entra are cut off: the Secret stays, and the SecretSync has the reason")
        self._emulator.cut_off()
        self._emulator.set_secret(VAULT, OBJECT, "Hello4")
        stage.say("Connections are refused. Meanwhile, the vault gets 'Hello4'.")
        stage.wait("the status", self._ready, ("False", "ProviderError"), POLL_SECONDS + 15)
        stage.run("kubectl get secretsyncs -n ${KUBERNETES_NAMESPACE}")
        message = "{.status.conditions[?(@.type=='Ready')].message}"
        why = stage.run(f'kubectl get secretsync {_NAME} -n ${{KUBERNETES_NAMESPACE}} -o jsonpath="{message}" && echo')
        stage.expect("the message to have a reason", bool(why.strip()), True)
        self._show("Hello3", "Hello2")

    def restart_controller(self, controller: PodProcess) -> None:
        """Restart the controller and the API server while the vault is cut off, and check that the Secret stays."""
        stage, cluster = self._stage, self._cluster
        own = isinstance(cluster, ControlPlane)
        stage.step(f"Still offline: the controller {'and the API server are' if own else 'is'} restarted")
        started = time.monotonic()
        code = controller.stop()
        stage.say(f"the controller got SIGTERM and ended with code {code} after {time.monotonic() - started:.1f} s")
        stage.expect("the controller's exit code", code, 0)
        if isinstance(cluster, ControlPlane):
            cluster.stop_apiserver()
            stage.run("kubectl get secrets -n ${KUBERNETES_NAMESPACE}", expect=1)
            cluster.start_apiserver()
        else:
            stage.say("(The API server of an existing cluster is not restarted.)")
        controller.start()
        controller.wait_ready()
        stage.say(f"process {controller.pid} is ready" + (", and so is the API server" if own else ""))
        stage.run("kubectl get secrets -n ${KUBERNETES_NAMESPACE}")
        self._show("Hello3", "Hello2")

    def restore_vault(self) -> None:
        """Restore the vault, and check that the Secret gets the newest value."""
        stage = self._stage
        stage.step("The vault is back: the Secret gets the value that was set in the meantime")
        self._emulator.restore()
        stage.wait("the new value", self._values, ("Hello4", "Hello3"), 45)
        stage.wait("the status", lambda: self._ready()[0], "True", 10)
        stage.run("kubectl get secretsyncs -n ${KUBERNETES_NAMESPACE}")
        self._show("Hello4", "Hello3")

    def _values(self) -> tuple[str, ...]:
        """Return the values of the Secret, the newest version first."""
        found = self._stage.secret(_NAME, NAMESPACE)
        return tuple(found.get(f"v{number}", "") for number in (0, 1))

    def _ready(self) -> tuple[str, str]:
        return self._stage.ready(_NAME, NAMESPACE)

    def _show(self, *wanted: str) -> None:
        """Run the guide's two commands, and check that they print these values."""
        for number, value in enumerate(wanted):
            path = f"{{.data.v{number}}}"
            read = f'kubectl get secret {_NAME} -n ${{KUBERNETES_NAMESPACE}} -o jsonpath="{path}"'
            self._stage.expect("the value", self._stage.run(f"{read} | base64 -d && echo").strip(), value)
