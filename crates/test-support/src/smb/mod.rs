//! A client, an unreliable network and a server around the hook, and an oracle for the stream that
//! the server must receive.

pub mod link;
pub mod messages;
pub mod oracle;
