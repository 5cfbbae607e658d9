//! Peers, AllowedIPs, receiver indices, limiter and timers, on boringtun.
//!
//! It turns datagrams into packets of a known peer and back. It knows nothing of NAT or SMB.
