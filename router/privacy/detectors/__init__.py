"""Detectors: they find personal data and secrets in a text, behind one Protocol."""

from hybrid_llm.core.protocols import Detector, Finding
from hybrid_llm.router.privacy.detectors.catalogue import DETECTORS
from hybrid_llm.router.privacy.detectors.engine import PatternDetector, Prepared, find_with, prepare, scan

__all__ = ["DETECTORS", "Detector", "Finding", "PatternDetector", "Prepared", "find_with", "prepare", "scan"]
