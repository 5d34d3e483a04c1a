"""Define conditions and the reasons that SSE's troubleshooting guide uses.

Each reason is a row of the table in the documentation. SSE's UnknownError has no member because each state has a name.
SSE's InvalidClusterSecretAnnotationError has no member because the owner reference decides which SecretSync a Secret
belongs to; LABEL_ERROR covers both.
"""

import enum
from typing import Annotated, Literal

from msgspec import Meta

from controller.api.meta import Wire, field_schema


class ConditionType(enum.StrEnum):
    """The types of conditions.

    `SecretCreated` and `SecretUpdated` are upstream's. `Ready` is for `kubectl wait`. kstatus (Flux, helm 4, kpt) reads
    `Ready` and `Stalled`: it waits while Ready is not True, and fails at once while Stalled is True.
    """

    READY = "Ready"
    SECRET_CREATED = "SecretCreated"  # noqa: S105 - the name of a condition
    SECRET_UPDATED = "SecretUpdated"  # noqa: S105
    STALLED = "Stalled"


class Reason(enum.StrEnum):
    """Why a SecretSync or AKVSync has its state. The documentation prints `meaning` and `next_step`."""

    meaning: str
    next_step: str

    def __new__(cls, value: str, meaning: str, next_step: str) -> "Reason":
        """Return a member that equals its value and carries the texts of the documentation."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.next_step = next_step
        return member

    UP_TO_DATE = (
        "UpdateNoValueChangeSucceeded",
        "The Secret has the values of the vault.",
        "Nothing to do.",
    )
    WRITTEN = (
        "UpdateValueChangeOrForceUpdateSucceeded",
        "The Secret was written with new values, labels or annotations.",
        "Nothing to do.",
    )
    PARTIAL = (
        "PartialSync",
        "Some keys are up to date and some could not be fetched; those keep their last good value.",
        "The message is a JSON list, failures first; fix the cause that each item names.",
    )
    PROVIDER_ERROR = (
        "ProviderError",
        "Entra or the Key Vault could not be reached or refused. The Secret keeps its values.",
        "The message names the cause and the next step. If several keys fail, it is a JSON list as for PartialSync. The"
        " controller retries, with pauses of at most 5 min.",
    )
    LABEL_ERROR = (
        "InvalidClusterSecretLabelError",
        "A Secret of the SecretSync's name exists and does not belong to it. It was not touched.",
        "Rename the SecretSync, or delete or rename the Secret; the controller then syncs by itself.",
    )
    INPUT_INVALID = (
        "UserInputValidationFailed",
        "The SecretSync or AKVSync is invalid.",
        "Correct the field that the message names.",
    )
    SPC_ERROR = (
        "ControllerSpcError",
        "The SecretProviderClass is missing or invalid.",
        "Create it, or correct the parameter, line or item that the message names.",
    )
    POLICY_REFUSED = (
        "ValidatingAdmissionPolicyCheckFailed",
        "An admission policy of the cluster refused the Secret or the token.",
        "The message comes from the policy. Allow the type in the chart's values, or change the SecretSync.",
    )
    SYNC_FAILED = (
        "ControllerSyncFailed",
        "The Kubernetes API refused a request that the sync needs, or the request failed.",
        "The message contains the API server's answer. The controller retries.",
    )
    NAME_TAKEN = (
        "NameTaken",
        "A SecretSync or SecretProviderClass that the AKVSync needs exists and does not belong to it. It was not"
        " touched.",
        "Delete or rename it, or choose another kubernetesSecretName; the controller then continues by itself.",
    )
    TYPE_CHANGE_WAITS = (
        "SecretTypeChangeWaits",
        "kubernetesSecretType was changed, and the generated SecretSync still has the old type. Its Secret, if there is"
        " one, was not touched.",
        "Delete the generated SecretSync, which deletes its Secret. The controller recreates both with the new type.",
    )
    IN_PROGRESS = (
        "InProgress",
        "A part of the AKVSync was just created or changed and is not synced yet.",
        "Wait a moment. If the reason remains, the message names what the controller waits for.",
    )
    KEPT = (
        "KeptLastValue",
        "Used only for a part of an AKVSync: an object is no longer selected, or is disabled or deleted in the vault."
        " The Secret keeps its last value.",
        "Nothing to do. To remove it, delete the generated SecretSync, or set `whenGone: Remove`.",
    )
    SKIPPED = (
        "ObjectsSkipped",
        "All Secrets of the AKVSync are up to date, and some selected objects have no Secret.",
        "status.skipped names each of these objects, with the reason and the next step.",
    )
    NO_UPDATE = (
        "NoUpdatesAttemptedYet",
        "Used only for SecretUpdated, which is Unknown until the controller has created the Secret.",
        "See SecretCreated or Ready.",
    )
    INTERNAL_ERROR = (
        "ControllerInternalError",
        "The controller met an unexpected state.",
        "Report the log line of that moment. The Secret keeps its values.",
    )


class Condition(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One aspect of the state (meta/v1 Condition)."""

    type: Annotated[
        str,
        field_schema(
            "Type of the condition: Ready, SecretCreated, SecretUpdated or Stalled.",
            maxLength=316,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        ),
    ]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether the condition holds.")]
    reason: Annotated[
        str,
        field_schema(
            "Reason in one word that programs can rely on.",
            minLength=1,
            maxLength=1024,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        ),
    ]
    message: Annotated[str, field_schema("Cause in a sentence, with the next step.", maxLength=32768)]
    last_transition_time: Annotated[str, field_schema("Time at which `status` last changed.", format="date-time")]
    observed_generation: Annotated[
        int, field_schema("Generation of the object that the condition describes.", format="int64", minimum=0)
    ] = 0

    @property
    def holds(self) -> bool:
        """Return whether the condition is known to hold."""
        return self.status == "True"
