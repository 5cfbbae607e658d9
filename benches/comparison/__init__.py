"""What `benches/compare` runs: gateways side by side in the machines of the lab (tests/lab)."""
