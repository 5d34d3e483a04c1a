"""Define the Kubernetes API objects that this product reads and writes.

The CRDs are generated from these types, and the controller decodes watch events with them. Rules that only the API
server checks (patterns, CEL rules, list-map keys) are in `extra_json_schema`, which decoding ignores: see
`field_schema`.
"""
