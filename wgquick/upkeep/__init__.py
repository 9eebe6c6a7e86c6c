"""`wgq watch`: restores what the journals promise, and keeps the endpoints up to date."""
