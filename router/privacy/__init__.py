"""The privacy guard, its detectors and its pseudonyms."""

from hybrid_llm.router.privacy.guard import Assessment, PrivacyGuard

__all__ = ["Assessment", "PrivacyGuard"]
