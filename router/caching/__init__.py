"""Caches of whole answers, in memory and on disk, and one answer for identical requests in flight."""
