"""`tools/migrate external-secrets` and `tools/migrate akv2k8s`: from other operators to this controller.

`command` reads the objects, with `foreign_manifests` from files. `akv2k8s` or `external_secrets` converts each object
that generates a Secret into a `WantedSecret` (`wanted_secrets`). `new_names` chooses names for the new objects, and
`secret_manifests` builds them. Manifests, takeovers and notes are collected in a `ConversionResult` (`result`), for
which `report` writes the steps of the migration.
"""
