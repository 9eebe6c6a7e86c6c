"""`wgq status`: the state of interfaces and peers, as values."""
