"""For all tests: what hypothesis draws may take its time, since a busy machine is not a bug."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
