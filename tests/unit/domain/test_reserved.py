"""Labels, annotations and names that other tools obey."""

import re

import pytest

from controller.domain import reserved

UNDER = "x.helm.sh/a", "helm.sh/a", "meta.helm.sh/a", "Argocd.ArgoProj.io/a", "applyset.kubernetes.io/id"
HARMLESS = (
    "helm.sh",
    "xhelm.sh/a",
    "helm.sh.example.com/a",
    "app.kubernetes.io/managed-by-x",
    "a/helm.sh",
    "kubernetes.io/x",
)


@pytest.mark.parametrize("key", [*UNDER, reserved.MANAGED_BY, f"{reserved.ACCOUNT_PREFIX}name"])
def test_reserved_key_is_reported_with_the_fix(key: str) -> None:
    for labels, annotations, field in (({key: "x"}, {}, "labels"), ({}, {key: "x"}, "annotations")):
        found = reserved.find_reserved("shop", labels, annotations)
        assert found
        assert f"secretObject.{field}" in found
        assert repr(key) in found
        assert "remove it" in found


@pytest.mark.parametrize("key", HARMLESS)
def test_other_keys_are_not_reserved(key: str) -> None:
    assert reserved.find_reserved("shop", {key: "helm"}, {key: "helm"}) is None


def test_owner_is_reserved_only_with_helms_value() -> None:
    assert reserved.find_reserved("shop", {"owner": "helm"}, {})
    assert reserved.find_reserved("shop", {"owner": "Helm"}, {"owner": "helm"}) is None


@pytest.mark.parametrize("name", ["sh.helm.release.v1.shop.v1", "bootstrap-token-abcdef"])
def test_reserved_names(name: str) -> None:
    found = reserved.find_reserved(name, {}, {})
    assert found
    assert "rename the SecretSync" in found


def test_pattern_of_reserved_keys_is_valid_in_cel() -> None:
    """RE2 has no lookaround and no backreference."""
    assert not re.search(r"\(\?[=!<P]|\\[1-9]", reserved.KEY)
