# The commands of a checkout. Each builds as the user who calls it, and takes root by sudo for what needs
# it. The rest is in tests/run and benches/.

.PHONY: build run demo test

build:
	@tests/as-user cargo build --release --bin vcgate

# Runs an endpoint from the checkout: make run LAN=eth1 ENDPOINT=vpn.example.com
run:
	@packaging/run $(if $(LAN),--lan '$(LAN)') $(if $(ENDPOINT),--endpoint '$(ENDPOINT)')

# The failure and its cure, in network namespaces: it needs no LAN.
demo:
	@tests/run demo

test:
	@tests/run
