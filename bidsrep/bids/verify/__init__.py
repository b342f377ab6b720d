"""Is a derivative dataset what its provenance says? Every check gives findings: a file, what is wrong, what to do."""
