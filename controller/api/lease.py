"""Lease (coordination.k8s.io/v1): which process leads.

Source: Kubernetes API reference, Lease v1.
"""

import msgspec

from controller.api.meta import Resource, Wire


class LeaseSpec(Wire, frozen=True, kw_only=True):
    """The holder of the Lease and the time of its last renewal.

    Times are informational: no clock is compared with them.
    """

    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int = 0


class Lease(Resource, frozen=True, kw_only=True):
    """A Lease that the controller creates without a spec. The leader fills it in."""

    group = "coordination.k8s.io"
    version = "v1"
    kind = "Lease"
    plural = "leases"

    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)
