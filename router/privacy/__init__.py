"""The privacy guard: what a request is tagged with, where it may go and in which form; clearances are made here."""

from hybrid_llm.router.privacy.guard import Assessment, PrivacyGuard

__all__ = ["Assessment", "PrivacyGuard"]
