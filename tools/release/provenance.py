"""Write the provenance of a release: the predicate of SLSA 1.0, with the builder's own statements.

On GitHub Actions, the values come from the workflow's environment. Elsewhere, the provenance names a local build. It is
only as trustworthy as the key that signs it.
Sources: slsa.dev/spec/v1.0/provenance, actions.github.io/buildtypes/workflow/v1.
"""

from collections.abc import Mapping
from typing import Any

from tools.cli.common.project import ProjectInfo

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
GITHUB_BUILD = "https://actions.github.io/buildtypes/workflow/v1"


def predicate(project: ProjectInfo, revision: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what built the release, from which commit, by which call."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return _local_builder(project, revision)
    server = environment["GITHUB_SERVER_URL"]
    repository = f"{server}/{environment['GITHUB_REPOSITORY']}"
    # OWNER/NAME/.github/workflows/FILE@REF
    workflow, _, ref = environment["GITHUB_WORKFLOW_REF"].partition("@")
    path = workflow.removeprefix(f"{environment['GITHUB_REPOSITORY']}/")
    return {
        "buildDefinition": {
            "buildType": GITHUB_BUILD,
            "externalParameters": {"workflow": {"ref": ref, "repository": repository, "path": path}},
            "internalParameters": {
                "github": {
                    "event_name": environment["GITHUB_EVENT_NAME"],
                    "repository_id": environment["GITHUB_REPOSITORY_ID"],
                    "repository_owner_id": environment["GITHUB_REPOSITORY_OWNER_ID"],
                    "runner_environment": environment["RUNNER_ENVIRONMENT"],
                }
            },
            "resolvedDependencies": [
                {
                    "uri": f"git+{repository}@{environment['GITHUB_REF']}",
                    "digest": {"gitCommit": environment["GITHUB_SHA"]},
                }
            ],
        },
        "runDetails": {
            "builder": {"id": f"{server}/{environment['GITHUB_WORKFLOW_REF']}"},
            "metadata": {
                "invocationId": f"{repository}/actions/runs/{environment['GITHUB_RUN_ID']}"
                f"/attempts/{environment['GITHUB_RUN_ATTEMPT']}"
            },
        },
    }


def _local_builder(project: ProjectInfo, revision: str) -> dict[str, Any]:
    return {
        "buildDefinition": {
            "buildType": f"{project.repository}/blob/main/docs/releases.md#a-local-build",
            "externalParameters": {"version": project.version},
            "internalParameters": {},
            "resolvedDependencies": [{"uri": f"git+{project.repository}", "digest": {"gitCommit": revision}}],
        },
        "runDetails": {"builder": {"id": f"{project.repository}/blob/main/Makefile"}},
    }
