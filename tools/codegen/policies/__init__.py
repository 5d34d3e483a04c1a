"""The chart's admission policies, which limit the controller to its tasks."""

from tools.codegen.policies.secrets import CRD_JOB, NEVER_ALLOWED, POLICIES, SINCE

__all__ = ["CRD_JOB", "NEVER_ALLOWED", "POLICIES", "SINCE"]
