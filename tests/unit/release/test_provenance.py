"""Test the provenance that a release is attested with."""

from tools.cli.common import project
from tools.release import provenance

PROJECT = project.read()
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://code.example",
    "GITHUB_REPOSITORY": "owner/name",
    "GITHUB_REPOSITORY_ID": "1",
    "GITHUB_REPOSITORY_OWNER_ID": "2",
    "GITHUB_WORKFLOW_REF": "owner/name/.github/workflows/release.yml@refs/tags/v0.1.0",
    "GITHUB_REF": "refs/tags/v0.1.0",
    "GITHUB_SHA": "f00",
    "GITHUB_EVENT_NAME": "push",
    "GITHUB_RUN_ID": "3",
    "GITHUB_RUN_ATTEMPT": "1",
    "RUNNER_ENVIRONMENT": "github-hosted",
}


def test_workflow_is_named_as_builder_with_its_commit() -> None:
    predicate = provenance.predicate(PROJECT, "bar", GITHUB)
    build = predicate["buildDefinition"]
    assert build["externalParameters"]["workflow"] == {
        "ref": "refs/tags/v0.1.0",
        "repository": "https://code.example/owner/name",
        "path": ".github/workflows/release.yml",
    }
    assert build["resolvedDependencies"] == [
        {"uri": "git+https://code.example/owner/name@refs/tags/v0.1.0", "digest": {"gitCommit": "f00"}}
    ]
    assert predicate["runDetails"] == {
        "builder": {"id": "https://code.example/owner/name/.github/workflows/release.yml@refs/tags/v0.1.0"},
        "metadata": {"invocationId": "https://code.example/owner/name/actions/runs/3/attempts/1"},
    }


def test_local_build_names_no_workflow() -> None:
    predicate = provenance.predicate(PROJECT, "bar", {})
    [dependency] = predicate["buildDefinition"]["resolvedDependencies"]
    assert dependency["digest"] == {"gitCommit": "bar"}
    assert predicate["runDetails"]["builder"]["id"].endswith("/Makefile")
    assert predicate["buildDefinition"]["buildType"] != provenance.GITHUB_BUILD
