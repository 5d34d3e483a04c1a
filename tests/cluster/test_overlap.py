"""Test two releases that serve the same namespaces.

The second release is not ready and names the first. It becomes ready and leads after the first is removed.
"""

import json
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from controller.kube.overlap import PAUSE, SERVES_PREFIX, patience
from tests.support.cluster.harness import (
    SINCE_POLICIES,
    InstalledRelease,
    InstallRelease,
    canary_value,
    eventually,
    is_leader,
    running_controller,
)
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.permissions import list_used
from tests.support.cluster.token_thief import TokenThief
from tools.cli.common import helm
from tools.cli.doctor import doctor
from tools.pods.pod_process import PodProcess

pytestmark = [pytest.mark.since(*SINCE_POLICIES), pytest.mark.long]
LEASE_SECONDS = 5
FREED = patience(LEASE_SECONDS) + 2 * PAUSE + 5
"""The maximum time until the second release becomes ready after the first was removed."""


@pytest.fixture(scope="module")
def controller() -> None:
    """Do not run a shared controller, because each test starts the processes that it needs."""


@pytest.fixture
def releases(install_own: InstallRelease) -> InstallRelease:
    """Return a function that installs a release with these watchNamespaces."""

    def install(begins: str, *namespaces: str) -> InstalledRelease:
        election = {"leaseDurationInSeconds": LEASE_SECONDS}
        return install_own(begins, watchNamespaces=list(namespaces), leaderElection=election)

    return install


def readiness(workload: PodProcess) -> str:
    """Return the text of the readiness probe's response: `ok`, or the problems."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(workload.health_url + "/readyz", timeout=5) as answer:
            return str(answer.read().decode()).strip()
    except urllib.error.HTTPError as error:
        return error.read().decode().strip()
    except OSError as error:
        return f"not yet ({type(error).__name__})"


def says(workload: PodProcess, *parts: str) -> str:
    return eventually(lambda: readiness(workload), lambda found: all(part in found for part in parts))


def writes(installed: InstalledRelease) -> set[str]:
    """Return the resources that the release wrote, except its Lease and those that the readiness checks use."""
    tried = {"secrets", "serviceaccounts/token", "leases"}
    return {right.resource for right in list_used(installed) if right.verb not in ("get", "list", "watch")} - tried


def synced(space: Namespace, name: str, text: str) -> None:
    space.set_secret(name, text)
    space.apply(space.provider_class(name, name=name))
    space.apply(space.sync(name, {"k": name}, secretProviderClassName=name))


@pytest.mark.parametrize(
    ("first", "second"),
    [((), ()), ((), ("{space}",)), (("{space}", "x"), ()), (("x", "{space}"), ("{space}", "y"))],
    ids=["all, all", "all, one", "two, all", "partly"],
)
def test_second_release_waits_says_who_leads_and_takes_over(
    first: tuple[str, ...], second: tuple[str, ...], releases: InstallRelease, space: Namespace
) -> None:
    for name in ("x", "y"):
        space.installed.plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    # The name of the second release sorts first, because the order of the names must have no effect.
    one = releases("zone", *(each.format(space=space.name) for each in first))
    two = releases("area", *(each.format(space=space.name) for each in second))
    with ExitStack() as stack:
        before = stack.enter_context(running_controller(one.workload()))
        eventually(lambda: is_leader(before), bool)
        after = stack.enter_context(two.workload())
        where = ", ".join(each.format(space=space.name) for each in first) or "all namespaces"
        said = says(
            after, f"release {one.release}/{one.deployment} serves {where}, and ", "leads it; uninstall one of the two"
        )
        assert f"and {before.env['POD_NAME']}_" in said
        synced(space, "a", "1")
        space.wait_secret("a", {"k": "1"})
        assert not is_leader(after)
        assert readiness(before) == "ok"
        assert writes(two) == set()
        one.remove()
        before.kill()
        eventually(lambda: readiness(after), lambda found: found == "ok", patience=FREED)
        synced(space, "b", "2")
        space.wait_secret("b", {"k": "2"})
        assert is_leader(after)
        assert after.stop() == 0
        # Both controllers have ended. Without this call, `stack` would stop them again and fail.
        stack.pop_all()


def test_releases_of_different_namespaces_are_both_ready(releases: InstallRelease, space: Namespace) -> None:
    other = Namespace(space.installed)
    one, two = releases("one", space.name), releases("two", other.name)
    with running_controller(one.workload()) as first, running_controller(two.workload()) as second:
        eventually(lambda: (is_leader(first), is_leader(second)), all)
        for place in (space, other):
            synced(place, "a", "1")
            place.wait_secret("a", {"k": "1"})
        assert (readiness(first), readiness(second)) == ("ok", "ok")
    other.remove()


def test_replicas_and_upgrades_of_one_release_are_no_overlap(releases: InstallRelease, space: Namespace) -> None:
    one = releases("one", space.name)
    with ExitStack() as stack:
        old = stack.enter_context(running_controller(one.workload()))
        eventually(lambda: is_leader(old), bool)
        follower = stack.enter_context(running_controller(one.workload()))
        assert readiness(follower) == "ok"
        # Upgrade the release and change its namespaces. The new replica is ready while the old one leads.
        flags = [*one.helm_flags, "--no-hooks", "--reuse-values", "--set-json", "watchNamespaces=[]"]
        helm.run(["upgrade", one.release, str(helm.CHART), *flags])
        new = stack.enter_context(running_controller(one.workload()))
        assert new.env.get("WATCH_NAMESPACES", "") == ""
        assert readiness(new) == "ok"
        assert is_leader(old)


def test_doctor_reports_both(releases: InstallRelease, space: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = releases("one", space.name), releases("two")
    one.make_available()

    def found(about: InstalledRelease) -> list[dict[str, str]]:
        doctor.main(["--release-namespace", about.release, "--kubeconfig", str(one.plane.kubeconfig), "-o", "json"])
        return [each for each in json.loads(capsys.readouterr().out)["checks"] if each["name"] == "overlap"]

    # The suite's shared release also serves all namespaces, so there can be more entries.
    [about_one] = [each for each in found(two) if f"(release {one.release})" in each["text"]]
    assert about_one["level"] == "fail"
    assert (
        f"{one.release}/{one.deployment} (release {one.release}) serves the namespaces {space.name}, too"
        in about_one["text"]
    )
    [about_two] = [each for each in found(one) if f"(release {two.release})" in each["text"]]
    assert about_two["level"] == "warn"
    assert (
        f"{two.release}/{two.deployment} (release {two.release}) is configured to serve the namespaces {space.name}"
        in about_two["text"]
    )


def test_editor_cannot_make_a_release_wait(releases: InstallRelease, space: Namespace) -> None:
    """Create Leases as an editor. A release ignores them, because only an admission policy reports another release."""
    space.add_editor("editor")
    # The ClusterRole `edit` of older Kubernetes versions lacks this right.
    space.kubectl("create", "role", "leases", "--verb=create", "--resource=leases.coordination.k8s.io")
    space.kubectl("create", "rolebinding", "leases", "--role=leases", f"--serviceaccount={space.name}:editor")
    one = releases("one", space.name)
    editor = TokenThief(space.installed.plane, space.name, "editor")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{space.name}/leases"
    for name in (one.deployment, "akv-secret-store", "zzz"):
        body = {
            "metadata": {"name": name},
            "spec": {"holderIdentity": f"{SERVES_PREFIX}", "leaseDurationSeconds": 3600},
        }
        assert editor.send("POST", path, body).status == 201
    with running_controller(one.workload()) as workload:
        eventually(lambda: is_leader(workload), bool)
        synced(space, "a", "1")
        space.wait_secret("a", {"k": "1"})
        assert space.secret_values("a") == {"k": canary_value("1")}


def test_question_is_refused_while_the_release_leads_and_at_no_other_time(
    releases: InstallRelease, space: Namespace
) -> None:
    one = releases("one", space.name)
    plane = space.installed.plane
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"

    def ask(namespaces: str, query: str = "?dryRun=All") -> int:
        body = {"metadata": {"name": "asks"}, "spec": {"holderIdentity": f"{SERVES_PREFIX}{namespaces}"}}
        return plane.request("POST", path + query, body)[0]

    assert ask("") == 201
    with running_controller(one.workload()) as workload:
        eventually(lambda: is_leader(workload), bool)
        eventually(lambda: ask(""), lambda status: status == 422)
        assert ask(f"x,{space.name}") == 422
        assert ask("x,y") == 201
        assert ask(f"{space.name}x") == 201
        assert ask("", "") == 201  # the policy refuses only dry runs
        plane.request("DELETE", f"{path}/asks")
    eventually(lambda: ask(""), lambda status: status == 201)
