"""Harnesses, fakes and builders that several suites share."""
