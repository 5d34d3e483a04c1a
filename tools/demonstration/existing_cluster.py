"""An existing cluster for the demo, with the part of `ControlPlane`'s interface that the demo needs."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tools.local_cluster import ClusterError
from tools.local_cluster.programs import assets


class ExistingCluster:
    """A cluster that is accessed with the current context of a kubeconfig. The methods raise `ClusterError`."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        """Read the cluster's address, issuer and keys. `folder` gets the kubeconfigs of ServiceAccounts."""
        self.kubeconfig = kubeconfig.absolute()
        self._folder = folder
        found = shutil.which("kubectl")
        self.kubectl_path = Path(found) if found else assets.kubernetes().path("kubectl")
        # Only the current context, with certificates instead of the names of their files.
        self._config: dict[str, Any] = json.loads(
            self.kubectl("config", "view", "--minify", "--raw", "--flatten", "--output=json")
        )
        self.url = str(self._config["clusters"][0]["cluster"]["server"])
        self.issuer = str(self.read_object("/.well-known/openid-configuration")["issuer"])
        self.jwks = self.read_object("/openid/v1/jwks")

    def kubectl(self, *args: str) -> str:
        """Run kubectl, and return its output. Raise `ClusterError`."""
        done = subprocess.run(
            [self.kubectl_path, "--kubeconfig", self.kubeconfig, "--request-timeout=15s", *args],
            env=os.environ | {"KUBECACHEDIR": str(self._folder / "kubectl")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def read_object(self, path: str) -> dict[str, Any]:
        """Return the object at this path of the API. Raise `ClusterError` if there is none."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "--raw", path))
        return found

    def find_object(self, path: str) -> dict[str, Any] | None:
        """Return the object at this path of the API; None if there is none. Raise `ClusterError` for another answer."""
        try:
            return self.read_object(path)
        except ClusterError as error:
            if "(NotFound)" in str(error):
                return None
            raise

    def account_environment(self, namespace: str, name: str, folder: Path) -> dict[str, str]:
        """Write a kubeconfig of a ServiceAccount with a token for at most 24 hours. Return the environment with it."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration=24h").strip()
        config = self._config | {"users": [{"name": self._config["contexts"][0]["context"]["user"]}]}
        config["users"][0]["user"] = {"token": token}
        folder.mkdir()
        path = folder / "kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        return {"KUBECONFIG": str(path)}

    def exists(self, kind: str, name: str) -> bool:
        """Return whether a cluster-scoped object exists."""
        return bool(self.kubectl("get", kind, name, "--ignore-not-found", "--output=name").strip())
