"""Define the conditions of an AKVSync's `select`, which select objects of a vault.

Source: Azure Key Vault REST API reference, "Get Secrets" (the fields of an object in a list); "About keys, secrets, and
certificates" (an object has at most 15 tags, with names of at most 512 and values of at most 256 characters).
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from controller.api.meta import Wire, field_schema

# The number of entries of one AKVSync with select. Each is compared with every object of the vault.
MAX_SELECTS = 8
MAX_TAGS = 15
ObjectType = Literal["secret", "cert"]


class Select(Wire, frozen=True, kw_only=True):
    """Conditions on the objects of the vault. An object must meet all given conditions. Without any, all objects do."""

    name_prefix: Annotated[
        str,
        field_schema(
            "Prefix of the object's name. Key Vault ignores the case of letters.",
            minLength=1,
            maxLength=127,
            pattern=r"^[0-9A-Za-z-]+$",
            explanation="a prefix of names in Key Vault: letters, digits and -",
        ),
    ] = ""
    name_pattern: Annotated[
        str,
        field_schema(
            "Pattern for the whole name: * matches any number of characters, ? matches one character.",
            minLength=1,
            maxLength=127,
            pattern=r"^[0-9A-Za-z*?-]+$",
            explanation="a pattern of names in Key Vault: letters, digits and -, with * and ?",
        ),
    ] = ""
    tags: Annotated[
        dict[str, Annotated[str, field_schema(maxLength=256)]],
        field_schema(
            "Tags that the object has, each with this value.",
            maxProperties=MAX_TAGS,
            x_kubernetes_validations=[
                {"rule": "self.all(key, key.size() <= 512)", "message": "a tag's name has at most 512 characters"}
            ],
        ),
    ] = msgspec.field(default_factory=dict)
    types: Annotated[
        list[ObjectType],
        field_schema("secret, cert or both; default: both.", minItems=1, maxItems=2, x_kubernetes_list_type="set"),
    ] = msgspec.field(default_factory=list)


class SkippedObject(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One object that is selected and has no Secret."""

    name: Annotated[str, Meta(description="Name of the object in Key Vault.")]
    message: Annotated[str, Meta(description="Cause and next step.")] = ""
