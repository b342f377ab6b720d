"""Nipype graphs, installed as ``bidsrep.workflows``."""
