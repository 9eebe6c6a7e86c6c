"""`wgq doctor`: the evidence of a tunnel is gathered once, then pure rules judge it."""
