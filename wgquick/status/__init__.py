"""What is up, for people and for monitoring: interfaces and peers, as values."""
