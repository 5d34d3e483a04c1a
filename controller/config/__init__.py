"""Settings of the process, and the clouds it may reach."""
