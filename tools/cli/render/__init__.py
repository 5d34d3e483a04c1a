"""tools/render: print the chart's manifests without a cluster or a network."""
