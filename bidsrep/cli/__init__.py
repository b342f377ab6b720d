"""The commands: parse, validate, hand over."""
