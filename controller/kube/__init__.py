"""The Kubernetes API: a client limited to the permissions table, informers, events, leader election."""
