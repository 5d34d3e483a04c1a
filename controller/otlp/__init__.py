"""The controller's log lines on their way to an OpenTelemetry Collector, over mutual TLS; stdout has them all the same.

Imported only where OTLP_ENDPOINT is set.
"""
