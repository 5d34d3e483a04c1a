"""Test by mutation which changes of the code of `controller/` the unit tests detect."""
