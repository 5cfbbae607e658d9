//! The connections of each file server, and the session setups with VcNumber 0 that it received in
//! the last second. It never counts or reports anything.

use super::connection::Connection;
use super::findings::Request;
use super::flow::Ends;
use super::timestamp::Timestamp;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;

/// A server: the connections by the client's address and the two ports.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub clients: HashMap<IpAddr, Client>,
    /// The session setups with VcNumber 0 of the last second, in order.
    pub zeros: VecDeque<Zero>,
}

/// An address from which clients connect.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// By the two ports.
    pub connections: HashMap<(u16, u16), Connection>,
    /// The session setups with VcNumber 0 that it sent, and their indices in the report.
    pub requests: Vec<(Zero, usize)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Zero {
    pub time: Timestamp,
    pub ends: Ends,
    /// Its index in the report, if it has one.
    pub request: Option<usize>,
}

impl Server {
    /// Returns the number of other connections of this client's address that were open at this time
    /// and still are.
    pub(super) fn others(&self, ends: Ends, time: Timestamp) -> u64 {
        self.open_others(ends, time).count() as u64
    }

    fn open_others(&self, ends: Ends, time: Timestamp) -> impl Iterator<Item = &Connection> {
        let client = self.clients.get(&ends.client.ip());
        let all = client.into_iter().flat_map(|c| c.connections.values());
        all.filter(move |c| c.is_open() && c.opened <= time && c.ends != ends && c.may_be_smb())
    }

    /// Counts the other connections that the server has not ended since the oldest session setup.
    pub(super) fn finalize_request(&mut self, requests: &mut [Request]) {
        if let Some(zero) = self.zeros.pop_front()
            && let Some(request) = zero.request.and_then(|at| requests.get_mut(at))
        {
            let others = self.open_others(zero.ends, zero.time);
            request.unaffected = Some(others.filter(|c| c.shows_server()).count() as u64);
        }
    }

    pub(super) fn find(&mut self, ends: Ends) -> Option<&mut Connection> {
        let client = self.clients.get_mut(&ends.client.ip())?;
        let ports = (ends.client.port(), ends.server.port());
        client.connections.get_mut(&ports)
    }
}

/// Returns the session setup that a disconnection is attributed to: the first one of the connection
/// that sent the most recent one, since servers act on the first one.
pub(super) fn cause<'a>(zeros: impl DoubleEndedIterator<Item = &'a Zero> + Clone) -> Option<Zero> {
    let last = zeros.clone().next_back()?;
    zeros.into_iter().find(|z| z.ends == last.ends).copied()
}

pub(super) fn find(servers: &mut HashMap<IpAddr, Server>, ends: Ends) -> Option<&mut Connection> {
    servers.get_mut(&ends.server.ip())?.find(ends)
}
