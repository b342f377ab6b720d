"""Representation models: one paper, one file; plus registry and weights."""
