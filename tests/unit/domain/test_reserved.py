"""Test that labels, annotations and names that other tools obey are refused."""

import re

import pytest

from controller.domain import reserved

RESERVED_KEYS = "x.helm.sh/a", "helm.sh/a", "meta.helm.sh/a", "Argocd.ArgoProj.io/a", "applyset.kubernetes.io/id"
OTHER_KEYS = (
    "helm.sh",
    "xhelm.sh/a",
    "helm.sh.example.com/a",
    "app.kubernetes.io/managed-by-x",
    "a/helm.sh",
    "kubernetes.io/x",
)


@pytest.mark.parametrize("key", [*RESERVED_KEYS, reserved.MANAGED_BY, f"{reserved.ACCOUNT_PREFIX}name"])
def test_reserved_key_is_reported_with_the_fix(key: str) -> None:
    for labels, annotations, field in (({key: "x"}, {}, "labels"), ({}, {key: "x"}, "annotations")):
        found = reserved.find_reserved("shop", labels, annotations)
        assert found
        assert f"secretObject.{field}" in found
        assert repr(key) in found
        assert "remove it" in found


@pytest.mark.parametrize("key", OTHER_KEYS)
def test_other_keys_are_not_reserved(key: str) -> None:
    assert reserved.find_reserved("shop", {key: "helm"}, {key: "helm"}) is None


def test_owner_is_reserved_only_with_helms_value() -> None:
    assert reserved.find_reserved("shop", {"owner": "helm"}, {})
    assert reserved.find_reserved("shop", {"owner": "Helm"}, {"owner": "helm"}) is None


@pytest.mark.parametrize("name", ["sh.helm.release.v1.shop.v1", "bootstrap-token-abcdef"])
def test_reserved_name_is_reported_with_the_fix(name: str) -> None:
    found = reserved.find_reserved(name, {}, {})
    assert found
    assert "rename the SecretSync" in found


def test_pattern_of_reserved_keys_is_valid_in_cel() -> None:
    """Check the syntax that RE2 lacks: lookaround and backreferences."""
    assert not re.search(r"\(\?[=!<P]|\\[1-9]", reserved.KEY)
