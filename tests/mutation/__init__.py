"""Change the code of `controller/` in one place at a time, and measure which changes the unit tests detect."""
