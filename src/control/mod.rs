//! The running endpoint as others see it: the UAPI that `wg` speaks, and the control socket.
//!
//! Holds no data-plane locks.
