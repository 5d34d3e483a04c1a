"""tools/doctor: explain why a Secret differs from its vault."""
