"""Findings, plans and states as text for people and as JSON for programs."""
