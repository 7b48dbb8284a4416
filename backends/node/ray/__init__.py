"""The node's engine on many machines: replicas in Ray Serve hold it, and a front with mutual TLS sends them tokens."""
