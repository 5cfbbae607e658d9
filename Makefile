# Commands of a checkout. Each one builds as the calling user and uses sudo for what needs root. Further
# commands are in tests/run and benches/.

.PHONY: build run install demo test

build:
	@tests/as-user cargo build --release --bin vcgate

# Runs an endpoint from the checkout: make run LAN=eth1 ENDPOINT=vpn.example.com
run:
	@packaging/run $(if $(LAN),--lan '$(LAN)') $(if $(ENDPOINT),--endpoint '$(ENDPOINT)')

# Installs or upgrades the program and its service; it starts nothing.
install:
	@packaging/install

# Shows the problem and the solution in network namespaces; it needs no LAN.
demo:
	@tests/run demo

test:
	@tests/run
