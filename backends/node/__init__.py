"""The cloud node: a gRPC service, and an engine in a process of its own."""
