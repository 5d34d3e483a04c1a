"""Reject names, labels and annotations of Secrets that other software obeys. The controller never writes them.

Helm treats a Secret with such a name or label as the record of a release. Argo CD treats one as a cluster or a
repository, or deletes it as a part of an application. kubectl deletes the members of an ApplySet. The admission
policies (tools/codegen/policies/) refuse such Secrets, so that a stolen token cannot control an administrator's tools
with one. The controller refuses a SecretSync with such a name before it calls the vault.
"""

import re
from collections.abc import Mapping

# A key belongs to a domain if the part before the slash is the domain or a subdomain of it.
DOMAINS = (
    "helm.sh",
    "argoproj.io",
    "toolkit.fluxcd.io",
    "objectset.rio.cattle.io",
    "applyset.kubernetes.io",
    "addonmanager.kubernetes.io",
    "kubectl.kubernetes.io",
)
MANAGED_BY = "app.kubernetes.io/managed-by"
ACCOUNT_PREFIX = "kubernetes.io/service-account."
# Helm lists its records by this label. Other values of it are ordinary labels.
HELM_OWNER = ("owner", "helm")
# Helm reads a record by its name. Clusters read bootstrap tokens by the other prefix.
NAME_PREFIXES = ("sh.helm.release.v1.", "bootstrap-token-")
SHOWN = ", ".join((*DOMAINS, MANAGED_BY, "owner=helm"))
# Both Python and CEL (RE2) read this pattern.
KEY = (
    rf"(?i)^(([^/]*\.)?({'|'.join(map(re.escape, DOMAINS))})/"
    rf"|{re.escape(MANAGED_BY)}$|{re.escape(ACCOUNT_PREFIX)})"
)
_KEY = re.compile(KEY)


def find_reserved(name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> str | None:
    """Return why the controller does not write a Secret with these, with the fix, or None if it does."""
    if name.startswith(NAME_PREFIXES):
        return f"a Secret's name must not begin with {' or '.join(NAME_PREFIXES)}: rename the SecretSync"
    for what, entries in (("label", labels), ("annotation", annotations)):
        for key, value in entries.items():
            if _KEY.match(key) or (what == "label" and (key, value) == HELM_OWNER):
                return (
                    f"secretObject.{what}s: the controller does not write the {what} {key[:317]!r}, because other tools"
                    f" obey it; remove it here. A {what} that you set on the Secret itself stays there"
                )
    return None
