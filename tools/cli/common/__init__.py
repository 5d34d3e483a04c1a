"""The parts that the operators' tools share: entry point, clients, safe reading and printing."""
