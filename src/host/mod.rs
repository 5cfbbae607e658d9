//! What the endpoint needs of its host: addresses, routes, forwarding, proxy neighbours, `doctor`.
//!
//! Never on the data path.
