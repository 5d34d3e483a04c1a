"""`tools/migrate external-secrets` and `tools/migrate akv2k8s`: from other operators to this controller.

`command` reads the objects, with `foreign_manifests` from files. `akv2k8s` or `external_secrets` converts each object
that generates a Secret into a `WantedSecret`, of which `wanted_secrets` makes the manifests of this controller. They
collect these and the notes in a `ConversionResult` (`result`), for which `report` writes the steps of the migration.
"""
