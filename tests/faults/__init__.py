"""What goes wrong, done on purpose: README.md says where each fault is tested."""
