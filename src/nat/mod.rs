//! The NAT: many inner addresses, one LAN address (RFC 4787, 5382, 5508, 6888).
//!
//! It knows addresses, ports and headers; nothing of SMB or WireGuard.
