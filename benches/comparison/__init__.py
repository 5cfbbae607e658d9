"""Implementation of `benches/compare`: gateways side by side in the machines of the lab (tests/lab)."""
