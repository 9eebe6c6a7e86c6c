"""`wgq watch`: keeps what the journals promise, and the endpoints, as they are to be."""
