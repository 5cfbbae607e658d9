"""The lab: vcgate between real WireGuard clients and a real Samba server, in network namespaces."""
