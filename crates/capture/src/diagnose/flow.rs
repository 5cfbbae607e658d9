//! A connection in the terms of a report: its ends, its counts and its outcome. It never reads
//! packets.

use super::conversation::Dialect;
use super::findings::Counts;
use super::fingerprint::Fingerprint;
use std::net::SocketAddr;
use std::time::Duration;

/// Maximum delay of captured data after its acknowledgement, when one machine captures on several
/// queues.
const MAX_LATENESS: Duration = Duration::from_millis(50);

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub client: SocketAddr,
    pub server: SocketAddr,
}

/// Counts of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub session_setups: u64,
    pub zeros: u64,
    pub ended: Option<Ended>,
    /// Maximum delay of a captured segment after its acknowledgement.
    pub late: Duration,
}

/// The likely cause for which a server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The server had lost the connection before.
    Lost,
    /// It followed a VcNumber 0 from the same address.
    Victim,
    /// It followed one from another address, on this connection.
    OtherAddress(Ends),
    /// No VcNumber 0 preceded it.
    Alone,
}

/// The outcome of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No packet of the server was captured, and the client received none.
    Unanswered,
    /// The server or a firewall refused it.
    Refused,
    /// The server declined or redirected the NetBIOS session request.
    Declined,
    /// Only packets of the client were captured, on an established connection.
    OnlyToServer,
    /// Only the server's packets were captured.
    OnlyFromServer,
    /// Both directions were captured.
    Both,
}

/// A connection in the form that [`against`](super::against) and [`duplicates`](super::duplicates)
/// compare.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    /// Its number in this capture.
    pub id: u64,
    pub ends: Ends,
    pub fingerprint: Fingerprint,
    pub dialect: Dialect,
    pub tally: Tally,
    pub outcome: Outcome,
    /// The client's end before the NAT, if the capture contains it.
    pub inner: Option<SocketAddr>,
}

impl Flow {
    /// Its contribution to the counts.
    pub(super) fn adds<'a>(&self, counts: &'a mut Counts) -> [(&'a mut u64, u64); 17] {
        let Tally {
            session_setups,
            zeros,
            ended,
            late,
        } = self.tally;
        let speaks = |dialect| u64::from(self.dialect == dialect);
        let elsewhere = matches!(ended, Some(Ended::OtherAddress(_)));
        let victim = ended == Some(Ended::Victim);
        let lost = ended == Some(Ended::Lost);
        let is = |outcome| u64::from(self.outcome == outcome);
        [
            (&mut counts.connections, 1),
            (&mut counts.smb1, speaks(Dialect::Smb1)),
            (&mut counts.smb2, speaks(Dialect::Smb2)),
            (&mut counts.encrypted, speaks(Dialect::Encrypted)),
            (&mut counts.session_setups, session_setups),
            (&mut counts.zeros, zeros),
            (&mut counts.victims, victim.into()),
            (&mut counts.victims_elsewhere, elsewhere.into()),
            (&mut counts.lost, lost.into()),
            (
                &mut counts.endings,
                (ended.is_some() && !victim && !lost).into(),
            ),
            (&mut counts.both_directions, is(Outcome::Both)),
            (&mut counts.two_clocks, (late > MAX_LATENESS).into()),
            (&mut counts.only_to_server, is(Outcome::OnlyToServer)),
            (&mut counts.only_from_server, is(Outcome::OnlyFromServer)),
            (&mut counts.unanswered, is(Outcome::Unanswered)),
            (&mut counts.refused, is(Outcome::Refused)),
            (&mut counts.declined, is(Outcome::Declined)),
        ]
    }
}
