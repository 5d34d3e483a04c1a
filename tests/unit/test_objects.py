"""SecretProviderClass parameters and sourcePaths, as tables."""

import time

import pytest

from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassSpec
from controller.errors import ClassError, InputError
from controller.objects import VaultClass, read_class

ONE = "array:\n  - |\n    objectName: my-secret\n    objectType: secret\n"


def spc(objects: str = ONE, provider: str = "azure", **parameters: str) -> SecretProviderClass:
    base = {"clientID": "client", "tenantID": "tenant", "keyvaultName": "my-vault", "objects": objects}
    return SecretProviderClass(spec=SecretProviderClassSpec(provider=provider, parameters=base | parameters))


def read(objects: str) -> VaultClass:
    return read_class(spc(objects))


def test_the_guides_class_is_understood() -> None:
    objects = """array:
  - |
    objectName: my-secret            # The name of the secret to synchronize.
    objectType: secret
    objectVersionHistory: 2                        # [optional]
"""
    found = read_class(spc(objects, cloudName="  ", usePodIdentity="false"))
    assert (found.vault, found.client_id, found.tenant_id, found.cloud) == ("my-vault", "client", "tenant", "")
    assert [(o.name, o.history, o.version) for o in found.objects.values()] == [("my-secret", 2, "")]


def test_names_stay_the_text_they_are() -> None:
    found = read("array: ['objectName: no', 'objectName: 1e3', 'objectName: 0x10', 'objectName: 010']")
    assert list(found.objects) == ["no", "1e3", "0x10", "010"]


def test_tenant_in_the_csi_providers_spelling() -> None:
    source = spc()
    source.spec.parameters["tenantId"] = source.spec.parameters.pop("tenantID")
    assert read_class(source).tenant_id == "tenant"


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ("", ["array:"]),
        ("[]", ["array:"]),
        ("array: []", ["array:"]),
        ("array:\n  - objectName: a\n", ["item 0 (line 2)", "`- |`"]),
        ("array:\n  - |\n    objectName: a\n   oops: [\n", ["not YAML", "line 4"]),
        (
            "array:\n  - |\n    objectName: a\n  - |\n    objectType: secret\n    objectName: [x\n",
            ["item 1", "line 7", "not YAML"],
        ),
        ("array:\n  - |\n    objectType: secret\n", ["item 0", "objectName is missing"]),
        ("array:\n  - |\n    objectName: a\n    objectType: sekret\n", ["item 0", "objectType", "'sekret'"]),
        ("array:\n  - |\n    objectName: a b\n", ["objectName", "'a b'"]),
        ("array:\n  - |\n    objectName: a\n    objectname: a\n", ["line 4", "unknown field 'objectname'"]),
        ("array:\n  - |\n    objectName: a\n    objectName: b\n", ["line 4", "given twice"]),
        ("array:\n  - |\n    objectName: [a]\n", ["line 3", "one value"]),
        (
            "array:\n  - |\n    objectName: a\n  - |\n    objectName: a\n",
            ["item 1 (line 4)", "named twice", "objectAlias"],
        ),
        ("array:\n  - |\n    objectName: a\n    objectVersionHistory: two\n", ["objectVersionHistory", "'two'"]),
        ("array:\n  - |\n    objectName: a\n    objectVersionHistory: 501\n", ["0 to 500"]),
        ("array: &x ['objectName: a']\nb: *x\n", ["alias"]),
        ("[" * 1_000_000, ["more than 4 levels"]),
        ("array:\n  - |\n    objectName: a\n    objectEncoding: rot13\n", ["objectEncoding", "'rot13'"]),
    ],
)
def test_wrong_objects_name_the_place_and_the_way_out(objects: str, words: list[str]) -> None:
    with pytest.raises(ClassError) as caught:
        read(objects)
    for word in words:
        assert word in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"clientID": " "}, ["clientID is missing"]),
        ({"keyvaultName": ""}, ["keyvaultName is missing"]),
        ({"tenantID": ""}, ["tenantID is missing"]),
        ({"keyvaultName": "evil.example/#"}, ["keyvaultName", "3 to 24"]),
        ({"keyvaultName": "a"}, ["keyvaultName"]),
        ({"keyvaultName": "a.b.c"}, ["keyvaultName"]),
        ({"keyvaultName": "vault\n"}, []),
        ({"tenantID": "../x"}, ["tenantID"]),
        ({"useVMManagedIdentity": "true"}, ["useVMManagedIdentity", "workload identity"]),
        ({"userAssignedIdentityID": "x"}, ["userAssignedIdentityID", "clientID"]),
        ({"cloudEnvFileName": "/etc/x"}, ["cloudEnvFileName", "clouds"]),
    ],
)
def test_wrong_parameters(parameters: dict[str, str], words: list[str]) -> None:
    if not words:  # white space around a value is trimmed
        assert read_class(spc(**parameters)).vault == parameters["keyvaultName"].strip()
        return
    with pytest.raises(ClassError) as caught:
        read_class(spc(**parameters))
    for word in words:
        assert word in caught.value.message


def test_another_provider_is_refused() -> None:
    with pytest.raises(ClassError, match="azure alone"):
        read_class(spc(provider="vault"))


@pytest.mark.parametrize(
    ("path", "name", "index"), [("one", "a", 0), ("b", "b", 0), ("many/0", "many", 0), ("many/2", "many", 2)]
)
def test_source_paths(path: str, name: str, index: int) -> None:
    found = read(
        "array: [\"{objectName: a, objectAlias: one}\", 'objectName: b', '{objectName: many, objectVersionHistory: 2}']"
    )
    version = found.find(path)
    assert (version.object.name, version.index) == (name, index)


@pytest.mark.parametrize("path", ["a", "one/0", "many", "many/3", "many/x", "many/-1", "many/²", "nothing"])
def test_source_paths_that_nothing_provides(path: str) -> None:
    found = read("array: [\"{objectName: a, objectAlias: one}\", '{objectName: many, objectVersionHistory: 2}']")
    with pytest.raises(InputError, match=path):
        found.find(path)


def test_twenty_thousand_objects_are_read_within_seconds() -> None:
    text = "array:\n" + "".join(f"  - |\n    objectName: a{i}\n    objectType: secret\n" for i in range(20_000))
    start = time.process_time()
    assert len(read(text).objects) == 20_000
    assert time.process_time() - start < 10
