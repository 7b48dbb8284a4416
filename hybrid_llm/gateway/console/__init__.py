"""The console: a page of the gateway for people. It shows where answers come from and why, and tries policies."""

from hybrid_llm.gateway.console.routes import console_routes

__all__ = ["console_routes"]
