"""The heads: one task, one file (what it predicts, its activation, what file its output becomes)."""
