"""Detectors: what finds personal data and secrets in a text, behind one Protocol."""

from hybrid_llm.router.detectors.base import Detector, Finding
from hybrid_llm.router.detectors.engine import PatternDetector, Prepared, find_all, find_with, scan
from hybrid_llm.router.detectors.patterns import DETECTORS

__all__ = ["DETECTORS", "Detector", "Finding", "PatternDetector", "Prepared", "find_all", "find_with", "scan"]
