"""What weights are worth: protocols of ``bidsrep-train evaluate``, on acquired scans and as in the papers."""
