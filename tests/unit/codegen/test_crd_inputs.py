"""Test objects that are drawn from the CRDs' schemas: each is handled or explained in a status that fits its schema.

The CEL rules do not restrict the drawn objects, so some of them would be refused by the API server.
"""

from datetime import UTC, datetime
from typing import Any

import jsonschema
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.akvsync import status as akvsync_status
from controller.akvsync.children import BlockedObject
from controller.akvsync.expand import expand_akvsync
from controller.api.akvsync import AKVSync, AKVSyncStatus
from controller.api.conditions import Reason
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.domain.decision import find_spec_mistake
from controller.domain.provider_class import ProviderConfig, VaultObject, read_class
from controller.domain.status import Failed, next_status
from controller.errors import ClassError, ControllerError, InputError
from tests.support.builders import make_provider_class
from tests.support.outcomes import make_outcome
from tools.codegen import crds

NOW = datetime(2030, 1, 1, tzinfo=UTC)
META = {"name": "a", "namespace": "b", "uid": "u", "generation": 1, "resourceVersion": "1"}
FEW = 3
LONG = 300
PATIENT = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def get_schema(crd: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the schema of `spec` or `status`."""
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][name]
    return found


def draw_from(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for values that fit the schema. Lists and texts are short."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "object":
            fields = {name: draw_from(field) for name, field in schema.get("properties", {}).items()}
            required = {name: fields.pop(name) for name in schema.get("required", [])}
            if "additionalProperties" in schema:
                return st.dictionaries(
                    st.text(min_size=1, max_size=9), draw_from(schema["additionalProperties"]), max_size=2
                )
            return st.fixed_dictionaries(required, optional=fields)
        case "array":
            return st.lists(draw_from(schema["items"]), min_size=schema.get("minItems", 0), max_size=FEW)
        case "integer":
            return st.integers(schema.get("minimum", -(2**31)), schema.get("maximum", 2**31))
        case "boolean":
            return st.booleans()
    least, most = schema.get("minLength", 0), min(schema.get("maxLength", LONG), LONG)
    if "pattern" in schema:
        return st.from_regex(schema["pattern"]).filter(lambda text: least <= len(text) <= most)
    return st.text(min_size=least, max_size=most)


def make_validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Return a validator of the schema. Callers keep it, because checking the schema is slow."""
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


SYNC, CLASS, AKV_SYNC = crds.build_all()
SYNC_STATUS, AKV_SYNC_STATUS = (
    make_validator(get_schema(SYNC, "status")),
    make_validator(get_schema(AKV_SYNC, "status")),
)
KNOWN = {name: VaultObject(name=name, history=2) for name in ("0", "A", "a")}
MESSAGES = st.text(max_size=40) | st.integers(0, 40_000).map(lambda count: "x" * count)


def decode_object(kind: Any, spec: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode({"metadata": META, "spec": spec}), type=kind)


def check_status(status: SecretSyncStatus | AKVSyncStatus, schema: jsonschema.Draft202012Validator) -> None:
    """Check that the status fits the schema of its CRD."""
    written = msgspec.json.decode(msgspec.json.encode(status))
    schema.validate(written)


def check_explanation(sync: SecretSync, error: ControllerError) -> None:
    """Check that the error has a short message, and that the resulting status fits its schema."""
    assert 0 < len(error.message) < 2000
    check_status(next_status(sync.metadata, sync.status, None, Failed(error), NOW), SYNC_STATUS)


@PATIENT
@given(spec=draw_from(get_schema(SYNC, "spec")))
def test_accepted_secretsync_is_resolved_or_explained(spec: Any) -> None:
    sync = decode_object(SecretSync, spec)
    if wrong := find_spec_mistake(sync):
        check_explanation(sync, wrong)
        return
    try:
        wanted = ProviderConfig(vault="v", client_id="c", tenant_id="t", cloud="", objects=KNOWN).wanted(
            sync.spec.secret_object
        )
    except InputError as error:
        check_explanation(sync, error)
    else:
        assert wanted.keys() == {pair.target_key for pair in sync.spec.secret_object.data}


@PATIENT
@given(spec=draw_from(get_schema(CLASS, "spec")))
def test_accepted_class_is_parsed_or_explained(spec: Any) -> None:
    source = decode_object(SecretProviderClass, spec)
    try:
        message = str(read_class(source))
    except ClassError as error:
        message = error.message
    assert 0 < len(message) < 2000


@PATIENT
@given(spec=draw_from(get_schema(AKV_SYNC, "spec")), reason=st.sampled_from(Reason), message=MESSAGES)
def test_accepted_akvsync_is_expanded_or_explained(spec: Any, reason: Reason, message: str) -> None:
    akv = decode_object(AKVSync, spec)
    try:
        expanded = expand_akvsync(akv)
    except InputError as error:
        check_status(akvsync_status.next_status(akv.metadata, akv.status, [], error, NOW), AKV_SYNC_STATUS)
        return
    blocked = [akvsync_status.part_status(name, BlockedObject(reason, message), None) for name in expanded.syncs]
    check_status(akvsync_status.next_status(akv.metadata, akv.status, blocked, None, NOW), AKV_SYNC_STATUS)


@given(reason=st.sampled_from(Reason), message=MESSAGES, version=st.text(max_size=40))
def test_any_condition_message_fits_the_status(reason: Reason, message: str, version: str) -> None:
    objects = [ObjectVersion(target_key="k", object="secret/a", version=version)]
    sync = decode_object(
        SecretSync, {"secretProviderClassName": "a", "serviceAccountName": "a", "secretObject": {"data": []}}
    )
    outcome = make_outcome(reason, message, objects)
    check_status(next_status(sync.metadata, sync.status, make_provider_class(), outcome, NOW), SYNC_STATUS)
