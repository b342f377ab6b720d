"""BIDS datasets: what is in them, what to call things, what to write beside them. No torch here."""
