"""Conditions and the reasons people know from SSE's troubleshooting guide.

Each reason becomes a row of the documentation's table. SSE's UnknownError has no member: nothing here is unknown.
Nor has InvalidClusterSecretAnnotationError: the owner tells whose a Secret is, so there is one reason, the label's.
"""

import enum
from typing import Annotated, Literal

from msgspec import Meta

from controller.api.meta import Wire, schema


class ConditionType(enum.StrEnum):
    """`SecretCreated` and `SecretUpdated` as upstream has them; `Ready` for `kubectl wait`, Flux and Argo CD."""

    READY = "Ready"
    SECRET_CREATED = "SecretCreated"  # noqa: S105 -- a condition's name
    SECRET_UPDATED = "SecretUpdated"  # noqa: S105


class Reason(enum.StrEnum):
    """Why a SecretSync or AKVSync is as it is. `meaning` and `next_step` are what the documentation prints."""

    meaning: str
    next_step: str

    def __new__(cls, value: str, meaning: str, next_step: str) -> "Reason":
        """A member equal to its word, with what the documentation says of it."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.next_step = next_step
        return member

    UP_TO_DATE = (
        "UpdateNoValueChangeSucceeded",
        "The Secret holds what the vault holds.",
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
        "The message is a JSON list, failures first: mend what each item names.",
    )
    PROVIDER_ERROR = (
        "ProviderError",
        "Entra or the Key Vault could not be reached or refused. The Secret stays as it is.",
        "The message names the cause and what to do; where several keys fail, it is a JSON list as PartialSync's. The"
        " controller retries, at most 5 min apart.",
    )
    LABEL_ERROR = (
        "InvalidClusterSecretLabelError",
        "A Secret of the SecretSync's name exists and does not belong to it. It was not touched.",
        "Rename the SecretSync, or delete or rename the Secret; the sync follows by itself.",
    )
    INPUT_INVALID = (
        "UserInputValidationFailed",
        "The SecretSync or AKVSync itself cannot be carried out.",
        "Correct the field that the message names.",
    )
    SPC_ERROR = (
        "ControllerSpcError",
        "The SecretProviderClass is missing or wrong.",
        "Create it, or correct the parameter, line or item that the message names.",
    )
    POLICY_REFUSED = (
        "ValidatingAdmissionPolicyCheckFailed",
        "An admission policy of the cluster refused the Secret or the token.",
        "The message is the policy's own; allow the type in the chart's values, or change the SecretSync.",
    )
    SYNC_FAILED = (
        "ControllerSyncFailed",
        "The Kubernetes API refused or failed a request that the sync needs.",
        "The message carries the API server's answer; the controller retries.",
    )
    NAME_TAKEN = (
        "NameTaken",
        "A SecretSync or SecretProviderClass that the AKVSync needs exists and does not belong to it. It was not"
        " touched.",
        "Delete or rename it, or choose another kubernetesSecretName; the AKVSync follows by itself.",
    )
    TYPE_CHANGE_WAITS = (
        "SecretTypeChangeWaits",
        "kubernetesSecretType was changed, and the Secret is still of the old type. It was not touched.",
        "Delete the generated SecretSync, and its Secret with it; both are made anew with the new type.",
    )
    IN_PROGRESS = (
        "InProgress",
        "A part of the AKVSync was just made or changed and has not been synced yet.",
        "Wait a moment; if it stays, the message names what is waited for.",
    )
    NO_UPDATE = (
        "NoUpdatesAttemptedYet",
        "Only of SecretUpdated, which is Unknown until the controller has created the Secret.",
        "See SecretCreated or Ready.",
    )
    INTERNAL_ERROR = (
        "ControllerInternalError",
        "The controller met a state that it does not know.",
        "Report the log line of that moment; the Secret stays as it is.",
    )


class Condition(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One aspect of the state (meta/v1 Condition)."""

    type: Annotated[
        str,
        schema(
            "Type of the condition: Ready, SecretCreated or SecretUpdated.",
            maxLength=316,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        ),
    ]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether the condition holds.")]
    reason: Annotated[
        str,
        schema(
            "Why, in one word that programs can rely on.",
            minLength=1,
            maxLength=1024,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        ),
    ]
    message: Annotated[str, schema("Why, in a sentence, with the next step.", maxLength=32768)]
    last_transition_time: Annotated[str, schema("When `status` last changed.", format="date-time")]
    observed_generation: Annotated[
        int, schema("The object's generation that this speaks of.", format="int64", minimum=0)
    ] = 0

    @property
    def holds(self) -> bool:
        """Whether it is known to hold."""
        return self.status == "True"
