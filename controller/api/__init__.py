"""Wire truth: the Kubernetes API objects that this product reads and writes.

The CRDs are generated from these types and the controller decodes watch events with them. What only the API server
must check (patterns, CEL rules, list-map keys) stands in `extra_json_schema`, ignored when decoding: see `schema`.
"""
