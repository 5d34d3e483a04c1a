"""Values for the leader election and the kubelet's probes."""

from typing import Annotated

from msgspec import Meta

from tools.codegen.values.base import ValuesGroup


class LeaderElection(ValuesGroup):
    """The election of the pod that does the work."""

    lease_duration_in_seconds: Annotated[
        int,
        Meta(
            ge=0,
            description="Seconds within which another process takes over from a failed leader, at least 5. The"
            " leader stops working after 2/3 of this time without a renewal. 0: 60 with one pod, else 15.",
            extra_json_schema={"not": {"enum": [1, 2, 3, 4]}, "pattern": "^(0|[5-9]|[1-9][0-9]{1,8})$"},
        ),
    ] = 0
    renew_interval_in_seconds: Annotated[
        int,
        Meta(
            ge=0,
            description="Seconds between two renewals of the Lease; each is a write to the cluster's database. At most"
            " a third of the duration counts. 0: a quarter of the duration with one pod, else 2/15 of it, as client-go"
            " does.",
        ),
    ] = 0


class LivenessProbe(ValuesGroup):
    """The probe after which the kubelet restarts the controller."""

    period_seconds: Annotated[int, Meta(ge=1, description="Seconds between two liveness probes.")] = 10
    timeout_seconds: Annotated[int, Meta(ge=1, description="Seconds until a liveness probe fails.")] = 5
    failure_threshold: Annotated[int, Meta(ge=1, description="Failed liveness probes before a restart.")] = 3


class ReadinessProbe(ValuesGroup):
    """The probe that decides whether a pod counts as ready."""

    period_seconds: Annotated[int, Meta(ge=1, description="Seconds between two readiness probes.")] = 5
    timeout_seconds: Annotated[int, Meta(ge=1, description="Seconds until a readiness probe fails.")] = 5
    failure_threshold: Annotated[int, Meta(ge=1, description="Failed readiness probes until a pod is not ready.")] = 3


class StartupProbe(ValuesGroup):
    """The probe before the first of the other two, which gives a slow machine time to start the controller."""

    period_seconds: Annotated[int, Meta(ge=1, description="Seconds between two startup probes.")] = 1
    timeout_seconds: Annotated[int, Meta(ge=1, description="Seconds until a startup probe fails.")] = 5
    failure_threshold: Annotated[int, Meta(ge=1, description="Failed startup probes before a restart.")] = 60
