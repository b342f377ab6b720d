"""The heads: what each predicts, its loss, and how its output becomes a file."""
