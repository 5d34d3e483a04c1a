"""The doctor as a plugin of kubectl: the archive and the manifest by which krew installs it."""

from tools.cli.common import templating
from tools.cli.common.project import ProjectInfo
from tools.release import oci

PLUGIN = "akv-doctor"
_ARCHITECTURES = ("amd64", "arm64")


def files(project: ProjectInfo, doctor: bytes, license_text: bytes) -> oci.Files:
    """Return the archive and krew's manifest, which names the archive in the release of the version's tag."""
    archive = oci.pack_tgz({"doctor": doctor, "LICENSE": license_text}, executable={"doctor"})
    name = f"{PLUGIN}-{project.version}.tar.gz"
    manifest = {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": PLUGIN},
        "spec": {
            "version": f"v{project.version}",
            "homepage": project.repository,
            "shortDescription": "Find out why a Secret differs from Azure Key Vault",
            "description": "Checks the ServiceAccount's token, Entra, DNS, TLS, the objects in the vault and the owner"
            " of the Secret for each SecretSync, and names the command that repairs what fails. It reads with the"
            " caller's rights, writes nothing and prints no value.",
            "caveats": "Needs Python 3.11 or newer as python3.",
            "platforms": [
                {
                    "selector": {"matchLabels": {"os": "linux", "arch": architecture}},
                    "uri": f"{project.repository}/releases/download/v{project.version}/{name}",
                    "sha256": oci.compute_digest(archive).removeprefix("sha256:"),
                    "bin": "doctor",
                }
                for architecture in _ARCHITECTURES
            ],
        },
    }
    return {name: archive, f"krew/{PLUGIN}.yaml": templating.to_yaml(manifest).encode()}
