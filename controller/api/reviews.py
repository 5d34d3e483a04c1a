"""Define the questions to the API server about clients of the metrics: their identity and their rights."""

import msgspec

from controller.api.meta import Resource, Wire


class ReviewedUser(Wire, frozen=True, kw_only=True):
    """A user as the API server identifies it."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)


class TokenReviewStatus(Wire, frozen=True, kw_only=True):
    """The validity of the token and the user that it belongs to."""

    authenticated: bool = False
    user: ReviewedUser = ReviewedUser()


class TokenReview(Resource, frozen=True, kw_only=True):
    """authentication.k8s.io/v1: asks which user a token belongs to."""

    group = "authentication.k8s.io"
    version = "v1"
    kind = "TokenReview"
    plural = "tokenreviews"
    namespaced = False

    status: TokenReviewStatus = msgspec.field(default_factory=TokenReviewStatus)


class AccessReviewStatus(Wire, frozen=True, kw_only=True):
    """The answer whether the user has the right."""

    allowed: bool = False


class SubjectAccessReview(Resource, frozen=True, kw_only=True):
    """authorization.k8s.io/v1: asks whether a user has a right."""

    group = "authorization.k8s.io"
    version = "v1"
    kind = "SubjectAccessReview"
    plural = "subjectaccessreviews"
    namespaced = False

    status: AccessReviewStatus = msgspec.field(default_factory=AccessReviewStatus)
