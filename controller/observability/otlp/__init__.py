"""Send the controller's log lines to an OpenTelemetry Collector over mutual TLS. stdout always has them, too.

The package is imported only if OTLP_ENDPOINT is set.
"""
