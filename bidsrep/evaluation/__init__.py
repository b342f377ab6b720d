"""Metrics, and the papers' protocols as runnable tables."""
