//! What tests and fuzzing put around the hook: a client, a bad network and a server, and an
//! oracle that says what the server has to get.

pub mod link;
pub mod messages;
pub mod oracle;
