"""Test the objects that an AKVSync generates, with the example of the reference, and the messages about mistakes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.akvsync.expand import GeneratedObjects, expand_akvsync
from controller.api.akvsync import ENCODINGS, MAX_GENERATED, MAX_PARTS
from controller.api.meta import MAX_SPEC
from controller.domain.generated import as_objects, class_items
from controller.domain.provider_class import VaultObject, read_class
from controller.domain.vault_objects import PROPERTY
from controller.errors import InputError
from tests.support.akv_syncs import EXAMPLE, akv_sync, source_paths, type_and_keys


def expand_objects(objects: str | list[dict[str, Any]]) -> GeneratedObjects:
    return expand_akvsync(akv_sync(objects))


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("api-token", "Opaque", {"v0": "api-token"}),
        ("db", "Opaque", {"v0": "db-password/0", "v1": "db-password/1", "v2": "db-password/2"}),
        ("web", "kubernetes.io/tls", {"tls.crt": "web/tls.crt", "tls.key": "web/tls.key"}),
        ("web-old", "Opaque", {"v0": "web-old/0", "v1": "web-old/1"}),
        ("edge-v0", "kubernetes.io/tls", {"tls.crt": "edge/0/tls.crt", "tls.key": "edge/0/tls.key"}),
        ("edge-v1", "kubernetes.io/tls", {"tls.crt": "edge/1/tls.crt", "tls.key": "edge/1/tls.key"}),
        ("deploy-key", "kubernetes.io/ssh-auth", {"ssh-privatekey": "deploy-key"}),
        ("bundle", "Opaque", {"user": "db-user", "previous": "db-password/1", "chain": "web"}),
    ],
)
def test_row_of_the_example_generates_its_secret(name: str, kind: str, data: dict[str, str]) -> None:
    assert type_and_keys(expand_objects(EXAMPLE).syncs[name]) == (kind, data)


def test_example_generates_only_the_listed_secrets() -> None:
    generated = expand_objects(EXAMPLE)
    assert list(generated.syncs) == ["api-token", "db", "web", "web-old", "edge-v0", "edge-v1", "deploy-key", "bundle"]
    db = generated.syncs["db"].spec.secret_object
    assert (db.labels, db.annotations) == ({"tier": "data"}, {"note": "rotated-weekly"})
    for sync in generated.syncs.values():
        assert (sync.spec.secret_provider_class_name, sync.spec.service_account_name) == ("shop", "robot")


def test_generated_objects_have_a_non_blocking_owner() -> None:
    generated = expand_objects(EXAMPLE)
    assert generated.source
    for generated_object in (generated.source, *generated.syncs.values()):
        assert generated_object.metadata.namespace == "team"
        assert msgspec.to_builtins(generated_object.metadata)["ownerReferences"] == [
            {
                "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
                "kind": "AKVSync",
                "name": "shop",
                "uid": "uid-of-the-akvsync",
                "controller": True,
            }
        ]


def test_class_has_each_object_with_the_needed_versions() -> None:
    source = expand_objects(EXAMPLE).source
    assert source
    assert source.metadata.name == "shop"
    understood = read_class(source)
    assert (understood.vault, understood.client_id, understood.tenant_id) == ("shop-vault", "the-client", "the-tenant")
    assert {item.served_as: (item.type, item.history) for item in understood.objects.values()} == {
        "api-token": ("secret", 1),
        "db-password": ("secret", 3),
        "web": ("secret", 1),
        "web-old": ("secret", 2),
        "edge": ("secret", 2),
        "deploy-key": ("secret", 1),
        "db-user": ("secret", 1),
    }


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        pytest.param(
            "[{secretInAKV: A-Token}]", {"a-token": ("Opaque", {"v0": "A-Token"})}, id="lower case by default"
        ),
        pytest.param(
            "[{secretInAKV: a, versionHistory: 1}]", {"a": ("Opaque", {"v0": "a"})}, id="version history of one"
        ),
        pytest.param(
            "[{secretInAKV: a, kubernetesSecretType: kubernetes.io/dockercfg}]",
            {"a": ("kubernetes.io/dockercfg", {".dockercfg": "a"})},
            id="dockercfg",
        ),
        pytest.param(
            "[{secretInAKV: a, kubernetesSecretType: kubernetes.io/dockerconfigjson}]",
            {"a": ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": "a"})},
            id="dockerconfigjson",
        ),
        pytest.param(
            "[{secretInAKV: a, kubernetesSecretType: kubernetes.io/ssh-auth, versionHistory: 2}]",
            {
                "a-v0": ("kubernetes.io/ssh-auth", {"ssh-privatekey": "a/0"}),
                "a-v1": ("kubernetes.io/ssh-auth", {"ssh-privatekey": "a/1"}),
            },
            id="one Secret per version for a type with its own key",
        ),
        pytest.param(
            "[{kubernetesSecretName: a, kubernetesSecretType: kubernetes.io/basic-auth, mapping: ["
            "{dataKey: username, secretInAKV: u}, {dataKey: password, secretInAKV: p}]}]",
            {"a": ("kubernetes.io/basic-auth", {"username": "u", "password": "p"})},
            id="basic-auth from a mapping",
        ),
        pytest.param(
            "[{secretInAKV: a, kubernetesSecretType: kubernetes.io/basic-auth}]",
            {"a": ("kubernetes.io/basic-auth", {"username": "a/username", "password": "a/password"})},
            id="basic-auth from one secret",
        ),
        pytest.param(
            "[{certInAKV: a, kubernetesSecretType: kubernetes.io/tls, includeCA: true, versionHistory: 2}]",
            {
                f"a-v{version}": (
                    "kubernetes.io/tls",
                    {key: f"a/{version}/{key}" for key in ("tls.crt", "tls.key", "ca.crt")},
                )
                for version in (0, 1)
            },
            id="TLS with its chain",
        ),
        pytest.param(
            "[{kubernetesSecretName: a, kubernetesSecretType: kubernetes.io/tls, mapping: ["
            "{dataKey: tls.crt, certInAKV: c}, {dataKey: tls.key, certInAKV: c}, {dataKey: ca, secretInAKV: r}]}]",
            {"a": ("kubernetes.io/tls", {"tls.crt": "c", "tls.key": "c", "ca": "r"})},
            id="TLS from a mapping",
        ),
        pytest.param(
            "[{kubernetesSecretName: a, mapping: [{dataKey: k, secretInAKV: s, version: 4}]}]",
            {"a": ("Opaque", {"k": "s/4"})},
            id="only an old version",
        ),
        pytest.param(
            "[{secretInAKV: web}, {certInAKV: web, kubernetesSecretName: tls, kubernetesSecretType: kubernetes.io/tls}"
            "]",
            {
                "web": ("Opaque", {"v0": "web"}),
                "tls": ("kubernetes.io/tls", {"tls.crt": "web/tls.crt", "tls.key": "web/tls.key"}),
            },
            id="value of a certificate is its secret",
        ),
        pytest.param(
            "[{secretInAKV: s}, {kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s, version: 1}]}]",
            {"s": ("Opaque", {"v0": "s/0"}), "m": ("Opaque", {"k": "s/1"})},
            id="versions of one object change the paths of another",
        ),
    ],
)
def test_entry_generates_the_expected_secrets(objects: str, expected: dict[str, Any]) -> None:
    generated = expand_objects(objects)
    assert {name: type_and_keys(sync) for name, sync in generated.syncs.items()} == expected
    # The class has each object that a path names.
    assert generated.source
    served = read_class(generated.source).objects
    assert {
        path.split("/")[0] for sync in generated.syncs.values() for path in source_paths(sync).values()
    } == served.keys()


def test_class_asks_for_the_most_versions_that_an_entry_needs() -> None:
    objects = "[{secretInAKV: s, versionHistory: 3}, {kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s, "
    for version, history in ((1, 3), (6, 7)):
        source = expand_objects(f"{objects}version: {version}}}]}}]").source
        assert source
        [item] = read_class(source).objects.values()
        assert item.history == history


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            "[{secretInAKV: API-token}, {secretInAKV: api-token}]",
            "secretInAKV API-token and secretInAKV api-token both make a Secret api-token: give one another"
            " kubernetesSecretName",
        ),
        (
            "[{certInAKV: edge, kubernetesSecretType: kubernetes.io/tls, versionHistory: 2}, {secretInAKV: edge-v1}]",
            "certInAKV edge and secretInAKV edge-v1 both make a Secret edge-v1",
        ),
        (
            "[{secretInAKV: m}, {kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s}]}]",
            "secretInAKV m and the mapping of m both make a Secret m",
        ),
        (
            "[{certInAKV: a, kubernetesSecretType: kubernetes.io/basic-auth}]",
            "certInAKV a: a certificate becomes a Secret of type Opaque or kubernetes.io/tls",
        ),
        ("[{certInAKV: a, expand: true}]", "certInAKV a: expand goes with secretInAKV and type Opaque"),
        ("[{secretInAKV: a, expand: true, versionHistory: 2}]", "expand goes with secretInAKV and type Opaque"),
        (
            "[{secretInAKV: a, expand: true, kubernetesSecretType: kubernetes.io/tls}]",
            "expand goes with secretInAKV and type Opaque",
        ),
        (
            "[{kubernetesSecretName: b, expand: true, mapping: [{dataKey: k, secretInAKV: a}]}]",
            "the mapping of b: expand goes with secretInAKV",
        ),
        (
            "[{certInAKV: a, includeCA: true}]",
            "includeCA goes with certInAKV and kubernetesSecretType kubernetes.io/tls",
        ),
        (
            "[{secretInAKV: a, includeCA: true, kubernetesSecretType: kubernetes.io/tls}]",
            "includeCA goes with certInAKV and kubernetesSecretType kubernetes.io/tls",
        ),
        (
            "[{kubernetesSecretName: b, mapping: [{dataKey: ..k, secretInAKV: a}]}]",
            "the mapping of b: dataKey ..k: a Secret's key is not a single dot and does not begin with two dots",
        ),
        (
            "[{kubernetesSecretName: b, mapping: [{dataKey: k, certInAKV: a, property: x}]}]",
            "the mapping of b: dataKey k: property and encoding go with secretInAKV",
        ),
        (
            "[{kubernetesSecretName: b, mapping: [{dataKey: k, certInAKV: a, encoding: hex}]}]",
            "the mapping of b: dataKey k: property and encoding go with secretInAKV",
        ),
        (
            "[{kubernetesSecretName: b, mapping: [{dataKey: k, secretInAKV: a, encoding: rot13}]}]",
            "the mapping of b: encoding of dataKey k is none of utf-8, base64, hex",
        ),
        (
            "[{kubernetesSecretName: b, mapping: [{dataKey: k, secretInAKV: a, property: x.}]}]",
            "the mapping of b: property of dataKey k is not names with dots",
        ),
        *(
            (
                f"[{{kubernetesSecretName: b, mapping: [{{dataKey: k, secretInAKV: a, property: '{path}'}}]}}]",
                "the mapping of b: property of dataKey k begins or ends with white space: remove it",
            )
            for path in (" ", " x", "x ", "x\\ ")
        ),
        (
            "[{certInAKV: a, kubernetesSecretType: kubernetes.io/ssh-auth}]",
            "certInAKV a: a certificate becomes a Secret of type Opaque or kubernetes.io/tls",
        ),
        ("[{secretInAKV: a, kubernetesSecretType: example.com/x}]", "kubernetesSecretType example.com/x is none of"),
        ("[{secretInAKV: a, versionHistory: 0}]", "secretInAKV a: versionHistory is 0: expected 1 to 500"),
        ("[{secretInAKV: a, versionHistory: 501}]", "secretInAKV a: versionHistory is 501: expected 1 to 500"),
        (
            "[{kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s, version: 500}]}]",
            "the mapping of m: version of dataKey k is 500: expected 0 to 499",
        ),
        (
            "[{kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: s, version: -1}]}]",
            "the mapping of m: version of dataKey k is -1: expected 0 to 499",
        ),
        (
            "[{secretInAKV: a}, {select: {namePrefix: b}, kubernetesSecretName: a}]",
            "secretInAKV a and the select of b both make a Secret a: give one another kubernetesSecretName",
        ),
        ("[{secretInAKV: a, certInAKV: a}]", "write exactly one of secretInAKV, certInAKV, mapping and select"),
        ("[{kubernetesSecretName: a}]", "the mapping of a: write exactly one of"),
        ("[{kubernetesSecretName: a, mapping: [{dataKey: k}]}]", "dataKey k needs exactly one of secretInAKV and"),
        (
            "[{kubernetesSecretName: a, mapping: [{dataKey: k, secretInAKV: s, certInAKV: s}]}]",
            "dataKey k needs exactly one of secretInAKV and certInAKV",
        ),
        ("[{mapping: [{dataKey: k, secretInAKV: s}]}]", "the mapping of no name: nothing is no Secret's name"),
        ("[{secretInAKV: a-}]", "secretInAKV a-: a- is no Secret's name: set kubernetesSecretName"),
        (f"[{{secretInAKV: a, kubernetesSecretName: {'a' * 254}}}]", "is no Secret's name"),
        (
            "[{certInAKV: a, kubernetesSecretType: kubernetes.io/tls, versionHistory: 257}]",
            f"this makes 257 Secrets, and an AKVSync may have {MAX_PARTS}: split it",
        ),
    ],
)
def test_invalid_objects_are_refused_with_a_message(objects: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        expand_objects(objects)
    assert message in refused.value.message


@pytest.mark.parametrize(("history", "fits"), [(15, True), (17, False)])
def test_bytes_that_an_akvsync_generates_are_bounded(history: int, fits: bool) -> None:
    """The limit is sixteen Secrets of 128 KiB. Each of them gets the labels and annotations of its object."""
    note = "x" * (MAX_GENERATED // 16)
    objects = (
        f"[{{secretInAKV: small}}, {{certInAKV: big, kubernetesSecretType: kubernetes.io/tls,"
        f" versionHistory: {history}, annotations: {{note: {note}}}}}]"
    )
    if fits:
        assert len(expand_objects(objects).syncs) == history + 1
        return
    with pytest.raises(InputError) as refused:
        expand_objects(objects)
    assert refused.value.message == (
        f"the {history + 1} SecretSyncs that this makes have more than 2097152 bytes together, the limit of an AKVSync:"
        " shorten labels and annotations of certInAKV big, lower its versionHistory, or split the AKVSync"
    )


def read_items(generated: GeneratedObjects) -> dict[str, VaultObject]:
    """Return the class's items by alias, as the controller reads them."""
    assert generated.source
    understood = read_class(generated.source)
    assert not understood.item_problems
    return dict(understood.objects)


def test_property_and_encoding_have_an_item_of_their_own() -> None:
    generated = expand_objects(
        "[{kubernetesSecretName: db, mapping: ["
        "{dataKey: password, secretInAKV: a, property: database.password},"
        "{dataKey: old, secretInAKV: a, property: database.password, version: 1},"
        "{dataKey: store, secretInAKV: a, property: 'b\\.c', encoding: base64}, {dataKey: all, secretInAKV: a},"
        "{dataKey: text, secretInAKV: a, property: 'b\\.c'}]}]"
    )
    paths = source_paths(generated.syncs["db"])
    found = read_items(generated)
    source = {key: found[path.rpartition("/")[0]] for key, path in paths.items()}
    assert {key: (item.name, item.property_path, item.encoding) for key, item in source.items()} == {
        "password": ("a", "database.password", "utf-8"),
        "old": ("a", "database.password", "utf-8"),
        "store": ("a", r"b\.c", "base64"),
        "all": ("a", "", "utf-8"),
        "text": ("a", r"b\.c", "utf-8"),
    }
    assert [path.rpartition("/")[2] for path in paths.values()] == ["0", "1", "0", "0", "0"]
    # All items have the same version, so one get is enough.
    assert {item.in_vault.history for item in found.values()} == {2}


def test_expanded_object_is_one_item() -> None:
    generated = expand_objects("[{secretInAKV: a, expand: true}, {secretInAKV: a, kubernetesSecretName: whole}]")
    path = source_paths(generated.syncs["a"])["v0"]
    assert read_items(generated)[path].expand
    assert not read_items(generated)["a"].expand
    assert generated.source
    assert read_class(generated.source).wanted(generated.syncs["a"].spec.secret_object).keys() == {"v0/*"}


def test_edit_of_another_entry_renames_no_item() -> None:
    mapping = [{"dataKey": f"k{number}", "secretInAKV": "a", "property": f"p{number}"} for number in range(9)]
    whole = source_paths(expand_objects([{"kubernetesSecretName": "b", "mapping": mapping}]).syncs["b"])
    for left_out in range(9):
        rest = [entry for number, entry in enumerate(mapping) if number != left_out]
        found = source_paths(expand_objects([{"kubernetesSecretName": "b", "mapping": rest}]).syncs["b"])
        assert found == {key: path for key, path in whole.items() if key != f"k{left_out}"}


PATH_STEP = st.text(st.characters(exclude_characters=".[]\\", min_codepoint=32, exclude_categories=["Cs"]), min_size=1)


@given(st.lists(PATH_STEP.filter(lambda step: step == step.strip()), min_size=1, max_size=4).map(".".join))
def test_property_is_in_the_class_as_the_akvsync_has_it(path: str) -> None:
    generated = expand_objects(
        [{"kubernetesSecretName": "b", "mapping": [{"dataKey": "k", "secretInAKV": "a", "property": path}]}]
    )
    (item,) = read_items(generated).values()
    assert item.property_path == path


NAMES = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z-]{0,9}", fullmatch=True) | st.sampled_from(
    ["null", "Null", "NULL", "true", "1e3", "0x1f", "2020-01-01"]
)
PATHS = st.from_regex(PROPERTY, fullmatch=True, alphabet=st.characters(exclude_categories=["Cs"])).filter(
    lambda path: len(path) <= 128 and path == path.strip()
)
MAPPED_KEYS = st.lists(
    st.fixed_dictionaries(
        {"version": st.sampled_from([0, 0, 0, 1, 3])},
        optional={
            "property": PATHS,
            "encoding": st.sampled_from(ENCODINGS),
        },
    ),
    min_size=1,
    max_size=4,
)


@given(st.dictionaries(NAMES, MAPPED_KEYS, min_size=1, max_size=3))
def test_each_key_reads_what_its_mapping_names(wanted: dict[str, list[dict[str, Any]]]) -> None:
    pairs = [(name, key) for name, keys in wanted.items() for key in keys]
    keys = [{"dataKey": f"k{number}", "secretInAKV": name} | key for number, (name, key) in enumerate(pairs)]
    generated = expand_objects([{"kubernetesSecretName": "m", "mapping": keys}])
    assert generated.source
    assert generated.source.spec.parameters["objects"] == as_objects(class_items(generated.source))
    read = read_class(generated.source).wanted(generated.syncs["m"].spec.secret_object)
    assert [
        {"dataKey": key, "secretInAKV": found.object.name, "version": found.index}
        | ({"property": found.object.property_path} if found.object.property_path else {})
        | ({"encoding": found.object.encoding} if found.object.encoding != "utf-8" else {})
        for key, found in read.items()
    ] == [{name: value for name, value in key.items() if value != "utf-8"} for key in keys]


def test_more_properties_than_a_class_holds_are_refused() -> None:
    mapping = [{"dataKey": f"k{number}", "secretInAKV": "a", "property": f"{number:03}" * 40} for number in range(100)]
    with pytest.raises(InputError, match=r"SecretProviderClass that this makes has \d+ bytes"):
        expand_objects(
            [{"kubernetesSecretName": f"b{number}", "mapping": mapping} for number in range(9)]
            + [
                {"kubernetesSecretName": f"c{number}", "mapping": [entry | {"secretInAKV": "z"} for entry in mapping]}
                for number in range(9)
            ]
            + [
                {
                    "kubernetesSecretName": f"d{number}",
                    "mapping": [entry | {"secretInAKV": f"y{number}"} for entry in mapping],
                }
                for number in range(9)
            ]
        )


def test_class_has_the_fields_of_each_item_in_a_fixed_form() -> None:
    generated = expand_objects(
        "[{secretInAKV: a}, {secretInAKV: b, versionHistory: 2}, {secretInAKV: c, expand: true},"
        """ {kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: d, property: '!x "~', encoding: hex}]}]"""
    )
    expanded, converted = source_paths(generated.syncs["c"])["v0"], source_paths(generated.syncs["m"])["k"]
    assert generated.source
    assert generated.source.spec.parameters["objects"] == (
        "array:\n"
        "  - |\n    objectName: a\n    objectType: secret\n"
        "  - |\n    objectName: b\n    objectType: secret\n    objectVersionHistory: 2\n"
        f"  - |\n    objectName: c\n    objectType: secret\n    objectAlias: {expanded}\n    objectExpand: true\n"
        f"  - |\n    objectName: d\n    objectType: secret\n    objectAlias: {converted}\n"
        '    objectProperty: "!x\\U00000020\\U00000022~"\n    objectEncoding: hex\n'
    )


def test_akvsync_without_select_selects_nothing() -> None:
    generated = expand_objects("[{secretInAKV: a}]")
    assert (generated.selects, generated.retained, generated.skipped, generated.kept) == (False, frozenset(), (), {})
    waiting = expand_akvsync(akv_sync("[{secretInAKV: a}]"), None, expand_objects("[{secretInAKV: b}]").syncs.values())
    assert waiting == generated


def test_limits_themselves_are_accepted() -> None:
    assert len(expand_objects("[{secretInAKV: a, versionHistory: 500}]").syncs) == 1
    certificate = "certInAKV: a, kubernetesSecretType: kubernetes.io/tls"
    assert len(expand_objects(f"[{{{certificate}, versionHistory: {MAX_PARTS}}}]").syncs) == MAX_PARTS


@pytest.mark.parametrize("more", [0, 1])
def test_class_has_at_most_2000_items(more: int) -> None:
    names = [f"s{number}" for number in range(2000 + more)]
    mappings = [names[start : start + 100] for start in range(0, len(names), 100)]
    objects = [
        {"kubernetesSecretName": chosen[0], "mapping": [{"dataKey": name, "secretInAKV": name} for name in chosen]}
        for chosen in mappings
    ]
    if not more:
        assert len(read_items(expand_objects(objects))) == 2000
        return
    with pytest.raises(InputError) as refused:
        expand_objects(objects)
    assert refused.value.message == (
        "this names 2001 objects or properties of the vault, and an AKVSync may name 2000: split it"
    )


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_secretsyncs_have_at_most_two_megabytes(more: int, fits: bool) -> None:
    def make_objects(padding: int) -> list[dict[str, Any]]:
        return [{"secretInAKV": "a", "annotations": {"note": "x" * padding}}]

    [sync] = expand_objects(make_objects(1)).syncs.values()
    padding = MAX_GENERATED - len(msgspec.json.encode(sync.spec)) + 1 + more
    if fits:
        assert expand_objects(make_objects(padding)).syncs
        return
    with pytest.raises(InputError, match="more than 2097152 bytes"):
        expand_objects(make_objects(padding))


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_class_has_at_most_as_many_bytes_as_are_read(more: int, fits: bool) -> None:
    def make_objects(padding: int) -> list[dict[str, Any]]:
        objects = [{"dataKey": f"k{number}", "secretInAKV": f"a{number}"} for number in range(1000)]
        return [{"kubernetesSecretName": "m", "mapping": [{**objects[0], "property": "x" * padding}, *objects[1:]]}]

    source = expand_objects(make_objects(1)).source
    assert source
    padding = MAX_SPEC - len(msgspec.json.encode(source.spec)) + 1 + more
    if fits:
        assert expand_objects(make_objects(padding)).source
        return
    with pytest.raises(InputError, match="has 131073 bytes as JSON, and 131072 are read"):
        expand_objects(make_objects(padding))
