"""The cloud node: a gRPC front and an engine in a process of its own."""
