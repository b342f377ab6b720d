"""Nipype nodes: files in, one call into a room below, files out."""
