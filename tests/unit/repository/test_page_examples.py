"""Test the examples of the pages without a cluster: objects fit the CRDs and the parsers, values fit the schema."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from controller.akvsync.expand import expand_akvsync
from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.decision import find_spec_mistake
from controller.domain.provider_class import ProviderConfig, read_class
from tests.support.pages import PAGES, ROOT, Block, list_blocks
from tools.codegen import crds

SPECS: dict[str, Any] = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for crd in crds.build_all()
}
VALUES = json.loads((ROOT / "values.schema.json").read_text())
OTHER_FILES = ("kube-apiserver-arg", "receivers")
"""The first keys of files of other programs: k3s and the OpenTelemetry Collector."""


def list_documents(block: Block) -> Iterator[Any]:
    """Return the YAML documents of a block, or of the here-documents in its commands. Variables have short names."""
    texts = [block.text] if block.language == "yaml" else []
    if block.language == "console":
        texts = re.findall(r"<<EOF.*\n((?:.*\n)*?)EOF$", block.text, re.MULTILINE)
    for text in texts:
        named = re.sub(r"\$\{?([A-Z_]+)\}?", lambda found: found[1].lower().replace("_", "-")[:24], text)
        yield from yaml.safe_load_all(named)


def find_unknown_fields(spec: Any, schema: Any, path: str = "spec") -> list[str]:
    """Return the paths of fields that the schema does not have. The API server would drop them."""
    if isinstance(spec, list):
        return [found for item in spec for found in find_unknown_fields(item, schema["items"], f"{path}[]")]
    fields = schema.get("properties", {})
    if not isinstance(spec, dict) or not fields:
        return []
    found = [f"{path}.{name}" for name in spec if name not in fields]
    return found + [
        unknown
        for name, value in spec.items()
        if name in fields
        for unknown in find_unknown_fields(value, fields[name], f"{path}.{name}")
    ]


def check_object(document: dict[str, Any], classes: dict[str, ProviderConfig]) -> None:
    """Parse an object as the controller does. `classes` has those of the page so far."""
    schema = SPECS[document["kind"]]
    jsonschema.validate(document["spec"], schema)
    assert find_unknown_fields(document["spec"], schema) == []
    match document["kind"]:
        case SecretProviderClass.kind:
            found = read_class(msgspec.convert(document, SecretProviderClass))
            assert found.item_problems == []
            classes[document["metadata"]["name"]] = found
        case SecretSync.kind:
            sync = msgspec.convert(document, SecretSync)
            assert find_spec_mistake(sync) is None
            assert classes[sync.spec.secret_provider_class_name].wanted(sync.spec.secret_object)
        case _:
            made = expand_akvsync(msgspec.convert(document, AKVSync))
            for child in made.syncs.values():
                assert made.source
                assert read_class(made.source).wanted(child.spec.secret_object)


PAGES_WITH_EXAMPLES = [page for page in PAGES if any(list(list_documents(block)) for block in list_blocks(page))]


@pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES)
def test_examples_of_a_page_fit_the_parsers(page: str) -> None:
    classes: dict[str, ProviderConfig] = {}
    for block in list_blocks(page):
        for document in list_documents(block):
            if document.get("kind") in SPECS:
                check_object(document, classes)
            elif "kind" not in document and next(iter(document)) not in OTHER_FILES:
                jsonschema.validate(document, VALUES)


@pytest.mark.parametrize(
    ("spec", "unknown"),
    [
        ({"keyvaultName": "shop", "objects": [{"secretInAKV": "a", "history": 2}]}, ["spec.objects[].history"]),
        ({"vault": "shop"}, ["spec.vault"]),
        ({"objects": [{"labels": {"tier": "data"}}]}, []),
    ],
)
def test_unknown_field_of_an_example_is_found(spec: dict[str, Any], unknown: list[str]) -> None:
    assert find_unknown_fields(spec, SPECS["AKVSync"]) == unknown
