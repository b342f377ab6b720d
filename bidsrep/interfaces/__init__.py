"""Nipype nodes: thin; files in, one call into a room below, files out."""
