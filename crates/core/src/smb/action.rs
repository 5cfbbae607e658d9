//! What the hook wants sent: it only says so, the packets are others' affair.

use super::dup_ack::Blocks;
use crate::ids::FlowId;

/// Something that is to be sent on a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To the client the server's last acknowledgement again, with these blocks.
    Acknowledge(FlowId, Blocks),
    /// To the client a keepalive probe, as if it came from the server (RFC 9293 section 3.8.4).
    Probe(FlowId),
    /// To both ends a RST; the flow is over.
    Reset(FlowId),
    /// To the server another RST with the number that it named: it has challenged the first one
    /// (RFC 5961 section 3.2), or goes on as if there had been none.
    RetryReset(FlowId, u32),
}

impl Action {
    /// The flow that it concerns.
    pub fn flow(self) -> FlowId {
        match self {
            Self::Acknowledge(flow, _) | Self::Probe(flow) => flow,
            Self::Reset(flow) | Self::RetryReset(flow, _) => flow,
        }
    }
}
