"""Generate the chart and the reference pages from the controller's types."""
