"""Detectors: what finds personal data and secrets in a text, behind one Protocol."""

from hybrid_llm.router.detectors.base import Detector, Finding
from hybrid_llm.router.detectors.engine import PatternDetector, find_all, scan
from hybrid_llm.router.detectors.patterns import DETECTORS

__all__ = ["DETECTORS", "Detector", "Finding", "PatternDetector", "find_all", "scan"]
