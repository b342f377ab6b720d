"""Reportlets, and the subject and group pages."""
