"""Convert the objects of External Secrets. `conversion` is the entry, and `kinds` has the types.

`cluster_external_secrets` expands a ClusterExternalSecret, `stores` finds the vault and its reader, `data` converts the
values, and `template` parses the templates that name them.
"""
