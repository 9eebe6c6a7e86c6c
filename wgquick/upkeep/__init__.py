"""`wgq watch`: restores what the journals record, and keeps the endpoints up to date."""
