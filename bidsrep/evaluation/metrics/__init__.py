"""Metrics the papers report, as pure functions of arrays: images, labels, lesions, fields, features."""
