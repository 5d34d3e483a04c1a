"""Test how tools/migrate from-sse reads helm's releases and SSE's settings, within bounds."""

import base64
import gzip
import json
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.hostile_texts import HOSTILE
from tools.cli.migrate import sse_settings
from tools.cli.migrate.sse_settings import BadReleaseError


def encode_release(content: bytes | Any) -> str:
    """Return a release as helm stores it and the API server serves it."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.b64encode(base64.b64encode(gzip.compress(text, mtime=0))).decode()


RELEASE = {
    "name": "azure-secret-store",
    "chart": {"metadata": {"name": "secretsync", "version": "1"}, "values": {"jitterSeconds": 1}},
    "config": {"rotationPollIntervalInSeconds": "120"},
}


def test_only_user_supplied_values_of_a_release_are_read() -> None:
    found = sse_settings.read_release(encode_release(RELEASE))
    assert (found.chart.metadata.name, found.config) == ("secretsync", {"rotationPollIntervalInSeconds": "120"})
    assert sse_settings.read_release(encode_release({**RELEASE, "config": None})).config is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a release"),
        ("!", "not a release"),
        (base64.b64encode(b"x").decode(), "not a release"),
        (base64.b64encode(base64.b64encode(b"x")).decode(), "not a release"),
        (encode_release(b"x"), "not a release"),
        (encode_release(b"\xff"), "not a release"),
        (encode_release([]), "not a release"),
        (encode_release({"config": []}), "not a release"),
        (encode_release(b'{"config":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001), "nested"),
        (encode_release(b" " * (sse_settings.MAX_RELEASE_BYTES + 1)), "more than 16 MiB"),
    ],
)
def test_invalid_release_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BadReleaseError, match=problem):
        sse_settings.read_release(text)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, {}),
        ({"rotationPollIntervalInSeconds": "120"}, {"rotationPollIntervalInSeconds": "120"}),
        (
            {"validatingAdmissionPolicies.applyPolicies": "false"},
            {"validatingAdmissionPolicies": {"applyPolicies": "false"}},
        ),
        (
            {"validatingAdmissionPolicies": {"applyPolicies": False, "allowedSecretTypes": ["Opaque"]}},
            {"validatingAdmissionPolicies": {"applyPolicies": False, "allowedSecretTypes": ["Opaque"]}},
        ),
        ({"kubectl": {"image": {"tag": "1"}}, "kubectl.image.digest": "x"}, {}),
        ({"nodeSelector": {"a.b/c": "d"}}, {"nodeSelector": {"a.b/c": "d"}}),
        ({"jitterSeconds": None, "unknown": {"a": {"b": 1}}}, {}),
        ({"secrets-store-csi-driver": {"syncSecret": {"enabled": "true"}}}, {}),
        ({"Azure": {"Cluster": {"Region": "x"}}, "image": {"tag": "1"}}, {}),
        # Names as `az k8s-extension create --configuration-settings` passes them.
        (
            {
                "validatingAdmissionPolicies.allowedSecretTypes[1]": "kubernetes.io/tls",
                "validatingAdmissionPolicies.allowedSecretTypes[0]": "Opaque",
                "validatingAdmissionPolicies.applyPolicies": "true",
            },
            {
                "validatingAdmissionPolicies": {
                    "allowedSecretTypes": ["Opaque", "kubernetes.io/tls"],
                    "applyPolicies": "true",
                }
            },
        ),
        (
            {r"nodeSelector.kubernetes\.io/os": "linux", "nodeSelector.disk": "ssd"},
            {"nodeSelector": {"kubernetes.io/os": "linux", "disk": "ssd"}},
        ),
        (
            {"tolerations[0].key": "a", "tolerations[0].operator": "Exists", "tolerations[1].operator": "Exists"},
            {"tolerations": [{"key": "a", "operator": "Exists"}, {"operator": "Exists"}]},
        ),
        ({"resources.limits.memory": "1Gi"}, {"resources": {"limits": {"memory": "1Gi"}}}),
        (
            {"jitterSeconds": "5", "jitterSeconds.x": "1", "": "x", "[0]": "x", "..": "x", "a." * 9999: "x"},
            {"jitterSeconds": "5"},
        ),
    ],
)
def test_settings_become_values_of_this_chart(values: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert sse_settings.chart_values(sse_settings.list_settings(values)) == wanted


def test_settings_are_listed_with_reasons_and_without_unknown_values() -> None:
    values = {"jitterSeconds": 3, "kubectl": {"image": {"tag": "1.2.3"}}, "other": {"token": "hunter2"}}
    lines = list(map(str, sse_settings.list_settings(values)))
    assert [line.partition(":")[0] for line in lines] == [
        "setting jitterSeconds=3",
        "setting kubectl.image.tag",
        "setting other.token",
    ]
    assert not any("hunter2" in line or "1.2.3" in line for line in lines)


@pytest.mark.parametrize("document", [None, [], "x", 1, {1: 2}, {"configurationSettings": [1]}])
def test_document_without_values_is_refused(document: Any) -> None:
    with pytest.raises(BadReleaseError):
        sse_settings.values_of(document)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | HOSTILE, lambda more: st.lists(more, max_size=3))


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(sse_settings.SAME)) | HOSTILE, JSON, max_size=4))
def test_command_has_the_intended_words_for_any_values(values: dict[str, Any]) -> None:
    found = sse_settings.list_settings(values)
    command = sse_settings.install_command(found, "azure-secret-store")
    assert command.isprintable()
    words = shlex.split(command)
    assert words[:7] == ["helm", "install", "azure-secret-store", "./chart", "--namespace", "azure-secret-store",
                         "--create-namespace"]  # fmt: skip
    pairs = list(zip(words[7::2], words[8::2], strict=True))
    assert all(flag == "--set-json" and word.partition("=")[0] in sse_settings.SAME for flag, word in pairs)
    assert all(str(each).isprintable() for each in found)
