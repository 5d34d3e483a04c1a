"""Test the parameters of a SecretProviderClass, and sourcePaths."""

import time

import msgspec
import pytest

from controller.domain.provider_class import ObjectPart, ObjectVersionRef, ProviderConfig, read_class
from controller.domain.vault_objects import MAX_WARNINGS, VaultObject, quote_text, read_objects, shorten_name
from controller.errors import ClassError, InputError
from tests.support.builders import ONE, make_azure_class, make_sync


def read_config(objects: str) -> ProviderConfig:
    return read_class(make_azure_class(objects))


def test_class_of_the_guide_is_parsed() -> None:
    objects = """array:
  - |
    objectName: my-secret            # The name of the secret to synchronize.
    objectType: secret
    objectVersionHistory: 2                        # [optional]
"""
    found = read_class(make_azure_class(objects, cloudName="  ", usePodIdentity="false"))
    assert (found.vault, found.client_id, found.tenant_id, found.cloud) == ("my-vault", "client", "tenant", "")
    assert [(o.name, o.history, o.version) for o in found.objects.values()] == [("my-secret", 2, "")]


def test_path_that_is_a_name_means_the_newest_version_as_a_whole() -> None:
    found = read_config("array: ['objectName: a']")
    assert found.resolve_path("a") == ObjectVersionRef(found.objects["a"])
    assert found.resolve_path("a") == ObjectVersionRef(found.objects["a"], 0, ObjectPart.WHOLE)


def test_names_are_read_as_text() -> None:
    found = read_config("array: ['objectName: no', 'objectName: 1e3', 'objectName: 0x10', 'objectName: 010']")
    assert list(found.objects) == ["no", "1e3", "0x10", "010"]


def test_tenant_in_the_spelling_of_the_csi_provider_is_read() -> None:
    source = make_azure_class()
    source.spec.parameters["tenantId"] = source.spec.parameters.pop("tenantID")
    assert read_class(source).tenant_id == "tenant"


NO_ARRAY = "parameter objects: expected `array:` with one `- |` item per object, see the guide's example"
ONE_ITEM_PER_OBJECT = "expected `array:` with one `- |` item per object"
NO_TEXT = "expected a text; write `- |` and the fields below it, indented"
NO_FIELDS = "expected fields such as `objectName: my-secret`"
NO_PATH = "expected a relative path without two dots in a row"
NO_PROPERTY = "expected names with dots between them, \\. for a dot in a name, .0 or [0] for the first item of a list"
NO_HISTORY = "expected a number from 0 to 500"


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("", NO_ARRAY),
        ("[]", NO_ARRAY),
        ("x", NO_ARRAY),
        ("b: ['objectName: a']", NO_ARRAY),
        ("array: objectName", NO_ARRAY),
        ("array: {objectName: a}", NO_ARRAY),
        ("array: []", NO_ARRAY),
        ("[a]: b", "parameter objects, line 1: a field's name must be one word"),
        ("b: c\n[a]: b", "parameter objects, line 2: a field's name must be one word"),
        ("array: ['objectName: a']\narray: b", "parameter objects, line 2: 'array' is given twice"),
        ("!!int array: b", "parameter objects, line 1: 'array' has another type than its tag; remove the tag"),
        ("<<: {array: ['objectName: a']}", "parameter objects, line 1: a merge key (<<); write its fields instead"),
        ("array:\n  - objectName: a\n", f"objects item 0 (line 2): {NO_TEXT}"),
        ("array:\n  - [a]\n", f"objects item 0 (line 2): {NO_TEXT}"),
        ("array:\n  - |\n    a\n", f"objects item 0 (line 2): {NO_FIELDS}"),
        ("array:\n  - |\n    [a]\n", f"objects item 0 (line 2): {NO_FIELDS}"),
        (
            "array:\n  - |\n    objectName: a\n   oops: [\n",
            "parameter objects, line 4: not YAML: did not find expected '-' indicator",
        ),
        (
            "array:\n  - |\n    objectName: a\n  - |\n    objectType: secret\n    objectName: [x\n",
            "objects item 1 (line 4), line 7: not YAML: did not find expected ',' or ']'",
        ),
        (
            "array:\n  - >\n    objectName: [x\n",
            "objects item 0 (line 2), line 4: not YAML: did not find expected ',' or ']'",
        ),
        (
            "array:\n  - 'objectName: ]x'\n",
            "objects item 0 (line 2), line 2: not YAML: did not find expected node content",
        ),
        ("array: ['\x01']", "parameter objects: not YAML: it cannot be read"),
        ("array:\n  - |\n    objectType: secret\n", "objects item 0 (line 2): objectName is missing"),
        (
            "array:\n  - |\n    objectName: a\n    [b]: c\n",
            "objects item 0 (line 2), line 4: a field's name must be one word",
        ),
        (
            "array:\n  - |\n    objectName: a\n    !!int b: c\n",
            "objects item 0 (line 2), line 4: 'b' has another type than its tag; remove the tag",
        ),
        (
            "array:\n  - |\n    objectName: a\n    objectType: sekret\n",
            "objects item 0 (line 2): objectType is 'sekret': expected secret, cert or key",
        ),
        (
            "array: ['{objectName: a, objectType: Cert}']",
            "objects item 0 (line 1): objectType is 'Cert': expected secret, cert or key",
        ),
        (
            "array: ['{objectName: a, objectFormat: der}']",
            "objects item 0 (line 1): objectFormat is 'der': expected pem or pfx",
        ),
        (
            "array: ['{objectName: a, objectType: cert, objectFormat: pfx}']",
            "objects item 0 (line 1): objectFormat pfx needs objectType secret; cert is always PEM",
        ),
        (
            "array: ['{objectName: a, objectType: key, objectEncoding: hex}']",
            "objects item 0 (line 1): objectEncoding hex needs objectType secret; key is always PEM",
        ),
        (
            "array: ['objectName: a', '{objectName: a, objectType: cert}']",
            "objects item 1 (line 1): a is named twice, as secret and as cert; give one an objectAlias",
        ),
        (
            "array: ['{objectName: a, x: 1}', '{objectName: a, objectType: key, y: 1}']",
            "objects item 1 (line 1): a is named twice, as secret and as key; give one an objectAlias",
        ),
        ("array: ['{objectName: a, objectAlias: ../a}']", f"objects item 0 (line 1): objectAlias is '../a': {NO_PATH}"),
        ("array: ['{objectName: a, objectAlias: /a}']", f"objects item 0 (line 1): objectAlias is '/a': {NO_PATH}"),
        (
            "array:\n  - |\n    objectName: a b\n",
            "objects item 0 (line 2): objectName is 'a b': expected 1 to 127 letters, digits and -",
        ),
        (
            "array:\n  - |\n    objectName: a\n    objectVersion: v1\n",
            "objects item 0 (line 2): objectVersion is 'v1': expected a version's id, 32 hexadecimal digits, or nothing"
            " for the newest",
        ),
        (
            "array:\n  - |\n    objectName: a\n    objectname: a\n",
            "objects item 0 (line 2), line 4: unknown field 'objectname' is ignored; write objectName",
        ),
        (
            "array:\n  - |\n    objectName: a\n    objectNames: a\n",
            "objects item 0 (line 2), line 4: unknown field 'objectNames' is ignored",
        ),
        (
            "array:\n  - |\n    objectName: a\n    objectName: b\n",
            "objects item 0 (line 2), line 4: 'objectName' is given twice",
        ),
        (
            "array:\n  - |\n    objectName: [a]\n",
            "objects item 0 (line 2), line 3: objectName must be one value",
        ),
        (
            "array:\n  - |\n    objectName: a\n  - |\n    objectName: a\n    objectFormat: pfx\n",
            "objects item 1 (line 4): a is named twice; give one an objectAlias, or use objectVersionHistory",
        ),
        (
            "array:\n  - |\n    objectName: a\n    objectVersionHistory: two\n",
            f"objects item 0 (line 2): objectVersionHistory is 'two': {NO_HISTORY}",
        ),
        (
            "array:\n  - |\n    objectName: a\n    objectVersionHistory: 501\n",
            f"objects item 0 (line 2): objectVersionHistory is '501': {NO_HISTORY}",
        ),
        (
            "array: &x ['objectName: a']\nb: *x\n",
            f"parameter objects, line 2: an alias; {ONE_ITEM_PER_OBJECT}",
        ),
        (
            "array:\n  - |\n    objectName: &x a\n    objectAlias: *x\n",
            f"objects item 0 (line 2), line 4: an alias; {ONE_ITEM_PER_OBJECT}",
        ),
        (
            "array:\n  - |\n    objectName: &x a\n    b: [[[*x]]]\n",
            f"objects item 0 (line 2), line 4: an alias; {ONE_ITEM_PER_OBJECT}",
        ),
        ("[" * 100_000, f"parameter objects, line 1: more than 4 levels; {ONE_ITEM_PER_OBJECT}"),
        ("array:\n  - [[[a]]]\n", f"parameter objects, line 2: more than 4 levels; {ONE_ITEM_PER_OBJECT}"),
        ("array:\n  - [[a]]\n", f"objects item 0 (line 2): {NO_TEXT}"),
        (
            "array:\n  - |\n    objectName: a\n    objectEncoding: rot13\n",
            "objects item 0 (line 2): objectEncoding is 'rot13': expected utf-8, hex or base64",
        ),
        (
            "array:\n  - |\n    objectName: a\n    objectProperty: a..b\n",
            f"objects item 0 (line 2): objectProperty is 'a..b': {NO_PROPERTY}",
        ),
        (
            "array: ['{objectName: a, objectType: cert, objectProperty: x}']",
            "objects item 0 (line 1): objectProperty x needs objectType secret; cert is always PEM",
        ),
        (
            "array: ['{objectName: a, objectType: key, objectExpand: true}']",
            "objects item 0 (line 1): objectExpand true needs objectType secret; key is always PEM",
        ),
        (
            "array: ['{objectName: a, objectExpand: maybe}']",
            "objects item 0 (line 1): objectExpand is 'maybe': expected false or true",
        ),
        (
            "array: ['{objectName: a, objectExpand: true, objectEncoding: hex}']",
            "objects item 0 (line 1): objectExpand cannot be combined with objectEncoding hex; give each property an"
            " item of its own with objectProperty, objectEncoding and objectAlias",
        ),
        (
            "array: ['{objectName: a, objectKeep: maybe}']",
            "objects item 0 (line 1): objectKeep is 'maybe': expected false or true",
        ),
        (
            "array: ['{objectName: a, objectExpand: true, objectKeep: true}']",
            "objects item 0 (line 1): objectKeep cannot be combined with objectExpand: map single properties with"
            " objectProperty",
        ),
        (
            "array: ['{objectName: a, objectProperty: x}', '{objectName: a, objectProperty: y}']",
            "objects item 1 (line 1): a is named twice; give one an objectAlias, or use objectVersionHistory",
        ),
    ],
)
def test_wrong_objects_are_reported_with_place_and_fix(objects: str, message: str) -> None:
    try:
        problems = read_config(objects).item_problems
    except ClassError as error:
        problems = [error.message]
    assert problems == [message]


@pytest.mark.parametrize(
    ("text", "quoted"), [("~" * 60, f"'{'~' * 60}'"), ("~" * 61, f"'{'~' * 57}...'"), ("\x01\n", r"'\x01\n'")]
)
def test_text_of_a_user_is_quoted_on_one_line_with_at_most_60_characters(text: str, quoted: str) -> None:
    assert quote_text(text) == quoted


@pytest.mark.parametrize(
    ("name", "shown"), [("~" * 60, "~" * 60), ("~" * 61, f"'{'~' * 57}...'"), ("a\nb", r"'a\nb'"), ("", "")]
)
def test_name_is_quoted_only_if_it_is_long_or_has_control_characters(name: str, shown: str) -> None:
    assert shorten_name(name) == shown


def test_object_in_the_vault_does_not_depend_on_the_use_of_its_value() -> None:
    stored = VaultObject(name="a", type="key", version="0" * 32, history=3)
    used = msgspec.structs.replace(
        stored, alias="b", format="pfx", encoding="hex", property_path="x", expand=True, keep=True
    )
    assert used.in_vault == stored


@pytest.mark.parametrize(("kind", "noun"), [("secret", "secret a"), ("cert", "certificate a"), ("key", "key a")])
def test_object_is_named_with_its_kind(kind: str, noun: str) -> None:
    assert VaultObject(name="a", type=kind).noun == noun


def test_object_without_unknown_fields_has_no_warnings() -> None:
    assert read_config("array: ['objectName: a']").warnings == {}


def test_fields_that_are_left_out_have_their_defaults() -> None:
    found = read_config("array: ['objectName: a']").objects["a"]
    assert found == VaultObject(name="a")
    assert found == VaultObject(
        name="a",
        type="secret",
        version="",
        history=1,
        alias="",
        format="pem",
        encoding="utf-8",
        property_path="",
        expand=False,
        keep=False,
    )


@pytest.mark.parametrize(
    ("value", "keep"), [("true", True), ("True", True), ("false", False), ("FALSE", False), ("''", False)]
)
def test_kept_object_is_read(value: str, keep: bool) -> None:
    (found,) = read_config(f"array:\n  - |\n    objectName: a\n    objectKeep: {value}\n").objects.values()
    assert found.keep is keep


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"clientID": " "}, ["clientID is missing"]),
        ({"keyvaultName": ""}, ["keyvaultName is missing"]),
        ({"tenantID": ""}, ["tenantID is missing"]),
        ({"keyvaultName": "evil.example/#"}, ["keyvaultName", "3 to 24"]),
        ({"keyvaultName": "a"}, ["keyvaultName"]),
        ({"keyvaultName": "a.b.c"}, ["keyvaultName"]),
        ({"keyvaultName": "a" * 25}, ["keyvaultName", "3 to 24"]),
        ({"keyvaultName": "-".join("a" * 13)}, ["keyvaultName", "3 to 24"]),
        ({"keyvaultName": "vault\n"}, []),
        ({"tenantID": "../x"}, ["tenantID"]),
        ({"useVMManagedIdentity": "true"}, ["useVMManagedIdentity", "workload identity"]),
        ({"userAssignedIdentityID": "x", "clientID": ""}, ["userAssignedIdentityID", "clientID"]),
        ({"cloudEnvFileName": "/etc/x"}, ["cloudEnvFileName", "clouds"]),
    ],
)
def test_wrong_parameters_are_reported(parameters: dict[str, str], words: list[str]) -> None:
    if not words:  # white space around a value is trimmed
        assert read_class(make_azure_class(**parameters)).vault == parameters["keyvaultName"].strip()
        return
    with pytest.raises(ClassError) as caught:
        read_class(make_azure_class(**parameters))
    for word in words:
        assert word in caught.value.message


VAULT = "a Key Vault's name, 3 to 24 letters, digits, -"
CLIENT = "the managed identity's client id"
TENANT = "the Key Vault's tenant id"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("clientID", "a b", CLIENT),
        ("tenantID", "a b", TENANT),
        ("tenantID", "https://shop.vault.azure.net", TENANT),
        ("keyvaultName", "a b", VAULT),
        ("keyvaultName", "a b.vault.azure.net", VAULT),
        ("keyvaultName", "https://shop.vault.azure.net/", f"{VAULT}; write shop"),
        ("keyvaultName", "shop.vault.azure.net", f"{VAULT}; write shop"),
        ("keyvaultName", "https://shop", f"{VAULT}; write shop"),
    ],
)
def test_invalid_parameter_is_quoted_with_the_expected_value(name: str, value: str, expected: str) -> None:
    with pytest.raises(ClassError) as caught:
        read_class(make_azure_class(**{name: value}))
    assert caught.value.message == f"parameter {name} is {value!r}: expected {expected}"


@pytest.mark.parametrize(("name", "meaning"), [("keyvaultName", VAULT), ("clientID", CLIENT), ("tenantID", TENANT)])
def test_missing_parameter_is_reported_with_its_meaning(name: str, meaning: str) -> None:
    with pytest.raises(ClassError) as caught:
        read_class(make_azure_class(**{name: ""}))
    assert caught.value.message == f"parameter {name} is missing: set it to {meaning}"


def test_class_without_an_identity_is_read_if_the_identity_is_optional() -> None:
    source = make_azure_class(clientID="", tenantID="")
    found = read_class(source, without_identity=True)
    assert (found.vault, found.client_id, found.tenant_id) == ("my-vault", "", "")
    with pytest.raises(ClassError, match="keyvaultName is missing"):
        read_class(make_azure_class(keyvaultName=""), without_identity=True)


def test_cloud_of_a_class_is_read() -> None:
    assert read_class(make_azure_class(cloudName=" AzureChinaCloud ")).cloud == "AzureChinaCloud"


@pytest.mark.parametrize("switch", ["usePodIdentity", "useVMManagedIdentity", "useAzureTokenProxy"])
@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        *((text, True) for text in ("false", "False", "f", "F", "0", "")),
        *((text, False) for text in ("true", "1", "x")),
    ],
)
def test_other_identities_must_be_off(switch: str, value: str, accepted: bool) -> None:
    source = make_azure_class(**{switch: value})
    if accepted:
        assert read_class(source).client_id == "client"
        return
    with pytest.raises(ClassError, match=f"parameter {switch} is '{value}': only workload identity is supported"):
        read_class(source)


def test_another_provider_is_refused() -> None:
    with pytest.raises(ClassError, match="serves only azure"):
        read_class(make_azure_class(provider="vault"))


def test_class_of_the_csi_provider_is_parsed() -> None:
    objects = """
        array:
          - |
            objectName: web
            objectType: secret
            objectFormat: PFX
            objectEncoding: Base64
            filePermission: "0600"
          - |
            objectName: web
            objectType: cert
            objectAlias: "tls/web.pem"
            objectFormat: PEM
            objectVersion: latest
          - |
            objectName: web
            objectType: key
            objectAlias: web-key
            objectEncoding: utf-8
            objectVersionHistory: 5
    """
    found = read_class(
        make_azure_class(objects, useVMManagedIdentity="False", usePodIdentity="0", cloudName="")
    ).objects
    assert {name: (item.type, item.format, item.encoding, item.history) for name, item in found.items()} == {
        "web": ("secret", "pfx", "base64", 1),
        "tls/web.pem": ("cert", "pem", "utf-8", 1),
        "web-key": ("key", "pem", "utf-8", 5),
    }


def test_property_and_expand_are_read() -> None:
    objects = """
        array:
          - |
            objectName: db
            objectAlias: password
            objectProperty: servers[0].pass\\.word
          - |
            objectName: db
            objectExpand: True
    """
    found = read_config(objects).objects
    assert (found["password"].property_path, found["password"].expand) == (r"servers[0].pass\.word", False)
    assert (found["db"].property_path, found["db"].expand) == ("", True)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("one/ca.crt", ObjectPart.ISSUERS),
        ("one.ca.crt", ObjectPart.ISSUERS),
        ("many/1/ca.crt", ObjectPart.ISSUERS),
        ("many/0.ca.crt", ObjectPart.ISSUERS),
        ("one/username", ObjectPart.USERNAME),
        ("one/password", ObjectPart.PASSWORD),
        ("dotted.ca.crt", ObjectPart.CERTIFICATES),
        ("taken/ca.crt", ObjectPart.WHOLE),
    ],
)
def test_chain_and_login_are_parts_unless_an_object_has_that_name(path: str, part: ObjectPart) -> None:
    more = [
        "{objectName: b, objectAlias: dotted.ca}",
        "{objectName: taken}",
        "{objectName: b, objectAlias: taken/ca.crt}",
    ]
    assert read_config(f"array: {PATHS + more}").resolve_path(path).part is part


@pytest.mark.parametrize(
    ("target", "path", "words"),
    [
        ("tls.crt", "one/ca.crt", "takes its certificates, and sourcePath one/ca.crt is its chain without the leaf;"),
        ("tls.crt", "one/tls.key", "takes its certificates, and sourcePath one/tls.key is its private key;"),
        ("tls.key", "one/ca.crt", "takes its private key for TLS, and sourcePath one/ca.crt is its chain without"),
        ("tls.key", "one/username", "takes its private key for TLS, and sourcePath one/username is its user name;"),
        ("tls.key", "one/password", "takes its private key for TLS, and sourcePath one/password is its password;"),
        ("tls.key", "one/tls.crt", "takes its private key for TLS, and sourcePath one/tls.crt is its certificates;"),
        ("extra", "all", "objectExpand"),
    ],
)
def test_tls_secret_takes_no_other_part(target: str, path: str, words: str) -> None:
    found = read_config(f"array: {[*PATHS, '{objectName: b, objectAlias: all, objectExpand: true}']}")
    with pytest.raises(InputError, match=words):
        found.wanted(make_sync({target: path}, type="kubernetes.io/tls").spec.secret_object)


def test_tls_secret_may_have_the_chain_beside_its_halves() -> None:
    keys = {"tls.crt": "one", "tls.key": "one", "ca.crt": "one/ca.crt"}
    wanted = read_config(f"array: {PATHS}").wanted(make_sync(keys, type="kubernetes.io/tls").spec.secret_object)
    assert [item.part for item in wanted.values()] == [ObjectPart.CERTIFICATES, ObjectPart.TLS_KEY, ObjectPart.ISSUERS]


@pytest.mark.parametrize("path", ["all/tls.crt", "all.ca.crt", "all/username"])
def test_expanded_object_has_no_parts(path: str) -> None:
    found = read_config("array: ['{objectName: all, objectExpand: true}']")
    with pytest.raises(InputError, match="and no part"):
        found.wanted(make_sync({"k": path}).spec.secret_object)


@pytest.mark.parametrize("path", ["all", "all/0"])
def test_key_of_an_expanded_item_is_no_key_of_a_secret(path: str) -> None:
    history = ", objectVersionHistory: 2" if path == "all/0" else ""
    found = read_config(f"array: ['{{objectName: all, objectExpand: true{history}}}', 'objectName: one']")
    wanted = found.wanted(make_sync({"k": path, "single": "one"}).spec.secret_object)
    assert {key: item.object.name for key, item in wanted.items()} == {"k/*": "all", "single": "one"}


PATHS = [
    "{objectName: a, objectAlias: one}",
    "objectName: web",
    "{objectName: many, objectVersionHistory: 2}",
    "{objectName: a, objectAlias: web.crt}",
    "{objectName: a, objectAlias: folder/file.key}",
    "{objectName: a, objectAlias: many/7}",
    "{objectName: public, objectType: cert}",
    "{objectName: turned, objectType: key, objectVersionHistory: 2}",
]


@pytest.mark.parametrize(
    ("path", "served_as", "index", "part"),
    [
        ("one", "one", 0, ObjectPart.WHOLE),
        ("web", "web", 0, ObjectPart.WHOLE),
        ("web/tls.crt", "web", 0, ObjectPart.CERTIFICATES),
        ("web/tls.key", "web", 0, ObjectPart.PRIVATE_KEY),
        ("web.key", "web", 0, ObjectPart.PRIVATE_KEY),
        ("one.crt", "one", 0, ObjectPart.CERTIFICATES),
        pytest.param("web.crt", "web.crt", 0, ObjectPart.WHOLE, id="object of exactly that name"),
        ("web.crt.crt", "web.crt", 0, ObjectPart.CERTIFICATES),
        ("web.crt/tls.key", "web.crt", 0, ObjectPart.PRIVATE_KEY),
        ("folder/file.key", "folder/file.key", 0, ObjectPart.WHOLE),
        ("folder/file.key/tls.key", "folder/file.key", 0, ObjectPart.PRIVATE_KEY),
        ("many/0", "many", 0, ObjectPart.WHOLE),
        ("many/2", "many", 2, ObjectPart.WHOLE),
        ("many/0/tls.crt", "many", 0, ObjectPart.CERTIFICATES),
        ("many/1/tls.key", "many", 1, ObjectPart.PRIVATE_KEY),
        ("many/1.crt", "many", 1, ObjectPart.CERTIFICATES),
        ("many/2.key", "many", 2, ObjectPart.PRIVATE_KEY),
        ("many/7", "many/7", 0, ObjectPart.WHOLE),
        ("public", "public", 0, ObjectPart.WHOLE),
        ("turned/1", "turned", 1, ObjectPart.WHOLE),
    ],
)
def test_source_path_names_object_version_and_part(path: str, served_as: str, index: int, part: ObjectPart) -> None:
    version = read_config(f"array: {PATHS}").resolve_path(path)
    assert (version.object.served_as, version.index, version.part) == (served_as, index, part)
    assert version.whole == ObjectVersionRef(version.object.in_vault, index)


@pytest.mark.parametrize(
    ("path", "text"),
    [("one", "secret/a"), ("one/tls.crt", "secret/a"), ("many/2", "secret/many/2"), ("turned/0", "key/turned/0")],
)
def test_version_is_shown_with_its_number_if_it_has_a_history(path: str, text: str) -> None:
    assert str(read_config(f"array: {PATHS}").resolve_path(path)) == text


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a", ["has no such object", "it has: folder/file.key, many"]),
        ("nothing/tls.crt", ["has no such object"]),
        ("one/0", ["write only one", "one/tls.crt"]),
        ("one/tls.pem", ["write only one", "one/tls.crt, one/tls.key and one/ca.crt"]),
        ("one.pem", ["has no such object"]),
        ("many", ["write many/0 to many/1"]),
        ("many/3", ["write many/0 to many/1", "many/0/tls.crt"]),
        ("many/x", ["write many/0"]),
        ("many/-1", ["write many/0"]),
        ("many/²", ["write many/0"]),
        pytest.param("many/" + "1" * 5000, ["write many/0"], id="more digits than Python converts"),
        ("many/0/1", ["write many/0"]),
        ("many/tls.crt", ["write many/0", "many/0/tls.crt"]),
        ("many.crt", ["write many/0"]),
        ("folder/file.key/0", ["write only folder/file.key"]),
        ("many/3.crt", ["write many/0"]),
        ("public/tls.crt", ["write only public", "objectType cert has no parts, secret has"]),
        ("public.key", ["objectType cert has no parts"]),
        ("turned/0.key", ["objectType key has no parts"]),
    ],
)
def test_source_path_without_an_object_is_reported(path: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read_config(f"array: {PATHS}").resolve_path(path)
    assert path in caught.value.message
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("secret_type", "key", "path", "part"),
    [
        ("kubernetes.io/tls", "tls.crt", "web", ObjectPart.CERTIFICATES),
        ("kubernetes.io/tls", "tls.key", "web", ObjectPart.TLS_KEY),
        ("kubernetes.io/tls", "tls.key", "web/tls.key", ObjectPart.TLS_KEY),
        ("kubernetes.io/tls", "tls.crt", "many/1.crt", ObjectPart.CERTIFICATES),
        ("kubernetes.io/tls", "tls.crt", "public", ObjectPart.CERTIFICATES),
        ("kubernetes.io/tls", "ca.crt", "web", ObjectPart.WHOLE),
        ("Opaque", "tls.crt", "web", ObjectPart.WHOLE),
        ("Opaque", "tls.key", "web.key", ObjectPart.PRIVATE_KEY),
    ],
)
def test_tls_secret_gets_the_part_of_its_key(secret_type: str, key: str, path: str, part: ObjectPart) -> None:
    wanted = read_config(f"array: {PATHS}").wanted(make_sync({key: path}, type=secret_type).spec.secret_object)
    assert wanted[key].part is part


@pytest.mark.parametrize(
    ("key", "path", "words"),
    [
        ("tls.crt", "web.key", ["takes its certificates", "web.key is its private key"]),
        ("tls.key", "web/tls.crt", ["takes its private key", "web/tls.crt is its certificates"]),
        ("tls.key", "public", ["objectType cert does not have", "objectType secret"]),
        ("tls.crt", "turned/0", ["objectType key does not have"]),
    ],
)
def test_tls_secret_with_swapped_parts_is_rejected(key: str, path: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read_config(f"array: {PATHS}").wanted(make_sync({key: path}, type="kubernetes.io/tls").spec.secret_object)
    for word in [key, *words]:
        assert word in caught.value.message


@pytest.mark.parametrize("count", [0, 10, 11])
def test_unknown_source_path_is_reported_with_ten_names_of_objects(count: int) -> None:
    names = [f"a{number:02}" for number in range(count)]
    with pytest.raises(InputError) as caught:
        read_config(f"array: {[*(f'objectName: {name}' for name in names), 'null']}").resolve_path("b")
    known = ", ".join(names[:10]) or "none"
    assert caught.value.message == f"sourcePath b: the SecretProviderClass has no such object; it has: {known}"


def test_unknown_source_path_is_reported_with_the_first_item_without_a_name() -> None:
    with pytest.raises(ClassError) as caught:
        read_config("array: ['objectName: a', 'objectType: key', 'x']").resolve_path("b")
    assert caught.value.message == "sourcePath b: no such object, and objects item 1 (line 1): objectName is missing"


def test_two_thousand_objects_are_read_within_seconds() -> None:
    text = "array:\n" + "".join(f"  - |\n    objectName: a{i}\n    objectType: secret\n" for i in range(2_000))
    start = time.process_time()
    assert len(read_config(text).objects) == 2_000
    assert time.process_time() - start < 2


@pytest.mark.parametrize("version", ["0" * 32, "00ff" * 8, "00FF" * 8, "latest"])
def test_version_is_32_hexadecimal_digits_or_the_latest(version: str) -> None:
    (found,) = read_class(
        make_azure_class(f"array: ['{{objectName: a, objectVersion: \"{version}\"}}']")
    ).objects.values()
    # Key Vault writes ids in lower case. Answers and lists of versions are compared with this one.
    assert found.version == ("" if version == "latest" else version.lower())


@pytest.mark.parametrize(
    "version", ["v1", "1", "pending", "policy", "versions", "0" * 31, "0" * 33, "g" * 32, "../a", "Latest"]
)
def test_invalid_version_is_refused_in_the_class(version: str) -> None:
    found = read_class(make_azure_class(f"array: ['{{objectName: a, objectVersion: \"{version}\"}}']"))
    with pytest.raises(ClassError, match=r"objectVersion is .*: expected a version's id, 32 hexadecimal digits"):
        found.resolve_path("a")


FAULTY = {
    "alias": "{objectName: bad, objectAlias: a..b}",
    "name": "{objectName: b d, objectAlias: bad}",
    "type": "{objectName: bad, objectType: Secret}",
    "format": "{objectName: bad, objectFormat: der}",
    "pfx of a certificate": "{objectName: bad, objectType: cert, objectFormat: pfx}",
    "encoding": "{objectName: bad, objectEncoding: rot13}",
    "version": "{objectName: bad, objectVersion: v1}",
    "history": "{objectName: bad, objectVersionHistory: many}",
    "a field twice": "{objectName: bad, objectName: bad}",
    "a list": "{objectName: bad, objectVersion: [1]}",
    "no YAML": "objectName: bad: x",
    "no fields": "bad",
    "no name": "{objectType: secret}",
    "too deep": "{objectName: bad, x: [[[[[1]]]]]}",
    "a merge key": "{objectName: bad, <<: {objectType: key}}",
    "a merge key first": "{<<: {objectType: key}, objectName: bad}",
    "merge keys of a list": "{objectName: bad, <<: [{objectType: key}]}",
}


@pytest.mark.parametrize("item", FAULTY.values(), ids=FAULTY)
def test_unusable_item_affects_only_its_own_source_paths(item: str) -> None:
    found = read_config(f"array:\n  - 'objectName: good'\n  - '{item}'\n  - 'objectName: better'\n")
    assert set(found.objects) == {"good", "better"}
    assert len(found.item_problems) == 1
    assert "item 1 (line 3)" in found.item_problems[0]
    assert found.resolve_path("good").object.name == "good"
    for path in ("bad", "a..b") if "a..b" in item else ("bad", "bad/0", "bad.crt", "bad/tls.key"):
        with pytest.raises(ClassError if path in ("bad", "a..b") and "a..b" not in item else (ClassError, InputError)):
            found.resolve_path(path)


@pytest.mark.parametrize(
    "fault",
    ["objectVersion: [1]", "objectType: secret, objectType: key", "<<: {objectType: key}", "objectType: !!int x"],
)
@pytest.mark.parametrize("alias", ["old", "' old '"])
def test_fault_before_the_alias_of_an_item_affects_only_that_alias(fault: str, alias: str) -> None:
    item = f"{{objectName: db, {fault}, objectAlias: {alias}}}"
    found = read_config(f'array:\n  - "objectName: db"\n  - "{item}"\n')
    assert found.resolve_path("db").object == VaultObject(name="db")
    with pytest.raises(ClassError, match="item 1"):
        found.resolve_path("old")


@pytest.mark.parametrize(
    ("alias", "cleaned"),
    [("a", "a"), ("./a", "a"), ("a/", "a"), ("a//b", "a/b"), ("a/./b", "a/b"), ("a/b///", "a/b"), (".a", ".a")],
)
def test_alias_of_a_history_is_cleaned_as_a_path(alias: str, cleaned: str) -> None:
    """The CSI provider writes the files `filepath.Join(alias, "0")` and so on."""
    item = f'{{objectName: db, objectAlias: "{alias}", objectVersionHistory: 2}}'
    config = read_config(f"array:\n  - '{item}'\n")
    for index in range(2):
        version = config.resolve_path(f"{cleaned}/{index}")
        assert (version.object.name, version.index) == ("db", index)
    assert config.resolve_path(f"{cleaned}/0.crt").part is ObjectPart.CERTIFICATES
    single = read_config(f"array:\n  - '{{objectName: db, objectAlias: \"{alias}\"}}'\n")
    assert set(single.objects) == {alias}


@pytest.mark.parametrize(
    "alias", ["_x", "ConnectionStrings:Default", "a b", "x" * 254, "x" * 5000, "a//b", "./a", "\u00e9", "-a", "a/"]
)
def test_alias_that_no_source_path_can_name_affects_no_other_object(alias: str) -> None:
    found = read_config(f"array:\n  - 'objectName: good'\n  - '{{objectName: odd, objectAlias: \"{alias}\"}}'\n")
    assert set(found.objects) == {"good", alias}
    assert found.item_problems == []
    with pytest.raises(InputError, match="it has: ") as caught:
        found.resolve_path("other")
    assert len(caught.value.message) < 500


def test_same_item_twice_word_for_word_is_one_object() -> None:
    item = "{objectName: opcua, objectType: secret, objectEncoding: hex}"
    found = read_config(f"array: ['{item}', '{item}', 'objectName: other', '{item}']")
    assert set(found.objects) == {"opcua", "other"}
    assert found.item_problems == []


@pytest.mark.parametrize("repeated", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("first", [True, False], ids=["newest first", "history first"])
def test_newest_version_and_history_of_one_name_have_different_paths(first: bool, repeated: int) -> None:
    """SSE serves both: the CSI provider writes the files `a`, `a/0` and `a/1`."""
    newest, history = "'objectName: a'", "'{objectName: a, objectVersionHistory: 2}'"
    items = [newest, history] if first else [history, newest]
    found = read_config(f"array: [{', '.join(items * repeated)}]")
    assert (found.resolve_path("a").object.history, found.resolve_path("a").index) == (1, 0)
    for index in range(2):
        assert (found.resolve_path(f"a/{index}").object.history, found.resolve_path(f"a/{index}").index) == (2, index)
    assert found.resolve_path("a.crt").object.history == 1
    assert found.resolve_path("a/1/tls.key").object.history == 2
    assert [each.history for each in found.all_objects] == [1, 2]
    assert found.item_problems == []
    with pytest.raises(InputError, match="write a/0 to a/1"):
        found.resolve_path("a/3")


def test_every_object_is_listed_once() -> None:
    found = read_config("array: ['{objectName: a, objectVersionHistory: 2}', 'objectName: b', 'objectName: b']")
    assert [each.name for each in found.all_objects] == ["a", "b"]


def test_histories_of_one_name_with_different_contents_fail() -> None:
    found = read_config(
        "array: ['objectName: a', '{objectName: a, objectVersionHistory: 2}',"
        " '{objectName: a, objectVersionHistory: 3}', 'objectName: b']"
    )
    assert (set(found.objects), found.all_objects) == ({"b"}, [found.objects["b"]])
    for path in ("a", "a/0"):
        with pytest.raises(ClassError, match="a is named twice"):
            found.resolve_path(path)


def test_different_items_of_one_name_fail_for_that_name_alone() -> None:
    found = read_config(
        "array: ['objectName: a', '{objectName: a, objectType: cert}', 'objectName: a', 'objectName: b']"
    )
    assert set(found.objects) == {"b"}
    with pytest.raises(ClassError, match="a is named twice, as secret and as cert; give one an objectAlias"):
        found.resolve_path("a")


def test_unknown_field_is_ignored_and_reported_for_its_object() -> None:
    found = read_config("array: ['{objectName: a, objectname: b, extra: [1]}', 'objectName: c']")
    assert found.resolve_path("a").object.name == "a"
    assert found.warnings_about([found.resolve_path("c")]) == ()
    warnings = found.warnings_about([found.resolve_path("a"), found.resolve_path("a")])
    assert [text.partition(": ")[2] for text in warnings] == [
        "unknown field 'objectname' is ignored; write objectName",
        "unknown field 'extra' is ignored",
    ]
    assert all("item 0 (line 1), line 1" in text for text in warnings)


def test_unknown_fields_of_one_item_are_reported_up_to_a_bound() -> None:
    """Each SecretSync that uses the item keeps these sentences in memory."""
    fields = "".join(f"    field{number}:\n" for number in range(5000))
    found = read_config(f"array:\n  - |\n    objectName: a\n{fields}  - 'objectName: c'\n")
    assert [text.partition(": ")[2] for text in found.item_problems] == [
        *(f"unknown field 'field{number}' is ignored" for number in range(MAX_WARNINGS)),
        f"{5000 - MAX_WARNINGS} more unknown fields are ignored",
    ]


@pytest.mark.parametrize(
    "rest",
    [
        "---",
        "...",
        "--- ",
        "---\narray: ['objectName: b']",
        "---\nx: [",
        "...\nx: [",
        "---\nx: *y",
        f"---\n{'[' * 9000}",
    ],
)
@pytest.mark.parametrize("place", ["class", "item"])
def test_text_after_the_first_document_is_ignored(rest: str, place: str) -> None:
    """The CSI provider reads one document of `objects`, and one of each item."""
    lines = "".join(f"    {line}\n" for line in rest.splitlines()) if place == "item" else f"{rest}\n"
    found = read_config(f"array:\n  - |\n    objectName: a\n    objectType: key\n{lines}")
    assert found.item_problems == []
    assert [(item.name, item.type) for item in found.objects.values()] == [("a", "key")]


def test_quoted_merge_key_is_a_field_like_any_other() -> None:
    found = read_config("array: ['{objectName: a, \"<<\": x}']")
    assert found.objects["a"].type == "secret"
    assert "unknown field '<<'" in found.item_problems[0]


@pytest.mark.parametrize("null", ["null", "Null", "NULL", "~", ""])
def test_null_is_an_absent_field(null: str) -> None:
    names = ("objectType", "objectVersion", "objectVersionHistory", "objectAlias", "objectFormat", "objectEncoding")
    fields = "".join(f"    {name}: {null}\n" for name in (*names, "filePermission"))
    found = read_config(f"array:\n  - |\n    objectName: a\n{fields}  - {null}\n  - |\n    {null}\n")
    assert found.item_problems == []
    assert found.objects == read_config("array: ['objectName: a']").objects


def test_quoted_null_is_a_text() -> None:
    assert (
        read_config('array: [\'{objectName: "null", objectAlias: "Null"}\']').resolve_path("Null").object.name == "null"
    )
    assert set(read_config("array: ['{objectName: a, objectAlias: \"~\"}']").objects) == {"~"}


@pytest.mark.parametrize(
    ("text", "history"),
    [
        *(("010", 8), ("0x3", 3), ("0X1f", 31), ("+2", 2), ("2.0", 2), ("2.9", 2), ("0o17", 15), ("0b11", 3)),
        *(("1_0", 10), ("1e2", 100), ("08", 8), (".5", 1), ("0", 1), ("-3", 1), ("-0x2", 1), ("5.", 5), ("00", 1)),
        *(("-2147483648", 1), ("-2147483649", None), ("2147483648", None)),
        *(("two", None), ("0x", None), ("1 2", None), ("501", None), ("99999999999", None), ("1e400", None)),
        *(("500", 500), ("500.9", 500), ("1" + "_" * 50, 1), ("0" * 39 + "3", 3), ("0" * 40 + "3", None)),
        *((".inf", None), (".nan", None), ("true", None), ("9" * 5000, None), ("\u0665", None), ("1e", None)),
    ],
)
def test_history_is_the_integer_that_sse_reads(text: str, history: int | None) -> None:
    found = read_config(f"array: ['{{objectName: a, objectVersionHistory: {text}}}']")
    if history is None:
        assert "objectVersionHistory is" in found.item_problems[0]
        assert "expected a number from 0 to 500" in found.item_problems[0]
    else:
        assert found.objects["a"].history == history


@pytest.mark.parametrize("kind", ["cert", "key"])
@pytest.mark.parametrize("form", ["PFX", "Pfx", "PEM", "pem"])
def test_format_in_capitals_has_no_effect_on_a_certificate_or_key(kind: str, form: str) -> None:
    found = read_config(f"array: ['{{objectName: a, objectType: {kind}, objectFormat: {form}}}']")
    assert found.item_problems == []
    assert found.objects["a"].format == "pem"


@pytest.mark.parametrize("spelling", ["clientID", "clientId"])
def test_user_assigned_identity_is_ignored_beside_a_client_id(spelling: str) -> None:
    source = make_azure_class(userAssignedIdentityID="another")
    source.spec.parameters[spelling] = source.spec.parameters.pop("clientID")
    assert read_class(source).client_id == "client"


def test_items_of_one_class_are_bounded() -> None:
    items = [f"  - 'objectName: a{number}'\n" for number in range(2_001)]
    assert len(read_objects("array:\n" + "".join(items[:2_000])).objects) == 2_000
    with pytest.raises(ClassError) as caught:
        read_objects("array:\n" + "".join(items))
    assert caught.value.message == (
        "parameter objects: it has 2001 items, and at most 2000 are read; split the SecretProviderClass"
    )


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\x85", "\u2028", "\u2029"])
def test_directives_are_bounded(line_break: str) -> None:
    """LibYAML compares each %TAG with all before it: thousands of them take a second of CPU time."""
    few, many = ("".join(f"%TAG !e{number}! t{line_break}" for number in range(count)) for count in (8, 9))
    assert read_objects(f"{few}---\n{ONE}").objects
    with pytest.raises(ClassError, match="parameter objects: it has 9 lines that begin with %, and at most 8 are read"):
        read_objects(f"{many}---\n{ONE}")


def test_directives_of_one_item_are_bounded() -> None:
    directives = "".join(f"%TAG !e{number}! t\\n" for number in range(9))
    found = read_objects(f'array:\n  - "{directives}---\\nobjectName: a"\n  - "objectName: b"\n')
    assert set(found.objects) == {"b"}
    assert "it has 9 lines that begin with %" in found.unnamed_faults[0]
