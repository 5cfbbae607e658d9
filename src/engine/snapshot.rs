//! The flows of an engine as plain data, so that a restart cuts nobody off: the NAT's state, and
//! which numbers the SMB hook has given away.
//!
//! Tunnels are not kept: a client makes a new session when the old one gets no answer.

use super::Engine;
use crate::ids::FlowId;
use crate::nat::{self, Protocol, RestoreError};
use crate::smb::Ends;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// All that an engine must know so that its flows go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    nat: nat::Snapshot,
    numbers: Vec<Number>,
}

/// The VcNumber that a flow has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Number {
    ends: Ends,
    number: u16,
}

impl Engine {
    /// The flows as they are now.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let (nat, hook) = (&self.rooms.nat, &self.rooms.hook);
        let numbers = nat.flows(now).filter_map(|flow| {
            let report = hook.flow(flow.id)?;
            Some(Number {
                ends: report.ends,
                number: report.number?,
            })
        });
        Snapshot {
            nat: nat.snapshot(now),
            numbers: numbers.collect(),
        }
    }

    /// Goes on with the flows of another engine, as they were `age` ago. This one must have no flows
    /// yet, and all its peers and forwards: what belongs to none of its own peers (any more) is left
    /// out. After an error it is not to be used.
    ///
    /// Where the next message begins in a restored connection is not kept: the SMB hook picks it up
    /// in mid-stream and changes nothing in it, so a further session setup in it passes with the
    /// client's own number. The number that it logged on with stays its own: no new connection
    /// gets one that the server knows.
    pub fn restore(
        &mut self,
        snapshot: Snapshot,
        age: Duration,
        now: Instant,
    ) -> Result<(), RestoreError> {
        let rooms = &mut self.rooms;
        let tunnel = &rooms.tunnel;
        let ours = |client: IpAddr| {
            let peer = tunnel.route(client);
            peer.is_some_and(|peer| tunnel.shard_of(peer) == rooms.shard.number())
        };
        rooms.nat.restore(snapshot.nat, ours, age, now)?;
        let flows = rooms.nat.flows(now);
        let flows: HashMap<(SocketAddr, SocketAddr), FlowId> = flows
            .filter(|flow| flow.protocol == Protocol::Tcp)
            .map(|flow| ((flow.inside, flow.remote), flow.id))
            .collect();
        for Number { ends, number } in snapshot.numbers {
            if let Some(flow) = flows.get(&(ends.client, ends.server)) {
                rooms.hook.restore(*flow, ends, number);
            }
        }
        Ok(())
    }
}
