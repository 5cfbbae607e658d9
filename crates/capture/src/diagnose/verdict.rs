//! What a report means, for somebody who has never heard of VcNumber.

use super::findings::{Counts, Ending, Request};
use serde::Serialize;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Logons with VcNumber 0 end the connections of others.
    CutOff,
    /// The same, seen from the clients' side of a NAT.
    CutOffBehindNat,
    /// Such logons end older connections of the same clients: what they are for.
    CameBack,
    /// There are such logons, and the server spares the others.
    Spared,
    /// There are such logons, and the capture ends before the server could have spared others.
    TooEarly,
    /// There are such logons, and nobody else was connected.
    NobodyElse,
    /// There are logons, none with VcNumber 0.
    NoZero,
    /// The logons were cut off in front of their VcNumber.
    CutShort,
    /// SMB1, but nobody logs on.
    NoLogon,
    /// SMB2 or SMB3.
    Smb2,
    /// SMB1 that cannot be read.
    Encrypted,
    /// A VPN from outside.
    Tunnel,
    /// Nothing of a file server.
    NoSmb,
}

/// How sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sureness {
    /// Other causes are as likely.
    Possible,
    /// Other causes are less likely.
    Likely,
    /// There is hardly another cause.
    Certain,
}

/// What is wrong, how sure that is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What is wrong.
    pub kind: Kind,
    /// How sure it is.
    pub sureness: Sureness,
    /// What happened.
    pub happened: String,
    /// Why that is so sure, or is not.
    pub because: String,
    /// What to do.
    pub advice: String,
}

/// Judges what was found.
pub fn judge(requests: &[Request], endings: &[Ending], counts: &Counts) -> Verdict {
    let kind = kind(requests, counts);
    let sureness = match kind {
        Kind::CutOff => cut_off_sureness(requests),
        Kind::CutOffBehindNat => match counts.victims_elsewhere {
            1 => Sureness::Possible,
            _ => Sureness::Likely,
        },
        Kind::TooEarly
        | Kind::NobodyElse
        | Kind::CutShort
        | Kind::NoLogon
        | Kind::Tunnel
        | Kind::NoSmb => Sureness::Possible,
        Kind::CameBack | Kind::Spared | Kind::NoZero => Sureness::Likely,
        Kind::Smb2 | Kind::Encrypted => Sureness::Certain,
    };
    let mut happened = happened(kind, requests, counts);
    if matches!(kind, Kind::CutOff | Kind::CutOffBehindNat) && counts.own_victims > 0 {
        happened += &format!(
            " It also ended {} of the very clients that logged on, which is what VcNumber 0 is \
             for.",
            counted(counts.own_victims, "older connection")
        );
    }
    let others = counts.endings.saturating_sub(counts.victims_elsewhere);
    if others > 0 {
        happened += &format!(" {}", other_endings(endings, others));
    }
    Verdict {
        kind,
        sureness,
        happened,
        because: because(kind, sureness, requests, counts),
        advice: advice(kind).to_owned(),
    }
}

fn kind(requests: &[Request], counts: &Counts) -> Kind {
    if counts.victims > 0 {
        Kind::CutOff
    } else if counts.victims_elsewhere > 0 {
        Kind::CutOffBehindNat
    } else if counts.own_victims > 0 {
        Kind::CameBack
    } else if requests.iter().any(|r| r.spared.is_some_and(|n| n > 0)) {
        Kind::Spared
    } else if requests.iter().any(|r| r.others > 0 && r.spared.is_none()) {
        Kind::TooEarly
    } else if counts.zeros > 0 {
        Kind::NobodyElse
    } else if counts.session_setups > 0 {
        Kind::NoZero
    } else if counts.cut_session_setups > 0 {
        Kind::CutShort
    } else if counts.smb1 > 0 {
        Kind::NoLogon
    } else if counts.encrypted > 0 {
        Kind::Encrypted
    } else if counts.smb2 > 0 {
        Kind::Smb2
    } else if counts.tunnel_packets > 0 {
        Kind::Tunnel
    } else {
        Kind::NoSmb
    }
}

/// The rule of the server is that all other connections end, at once. How well does that fit?
fn cut_off_sureness(requests: &[Request]) -> Sureness {
    let victims = || requests.iter().flat_map(|request| &request.victims);
    let (all, busy) = (victims().count(), victims().filter(|v| v.busy).count());
    let quick = victims().filter(|v| v.delay_ms.is_some_and(|ms| ms < 250.0));
    let odd = victims().filter(|v| v.odd_ttl).count();
    let spared: u64 = requests.iter().filter_map(|request| request.spared).sum();
    if spared == 0 && odd == 0 && busy > 0 && quick.count() == all {
        match all {
            1 => Sureness::Likely,
            _ => Sureness::Certain,
        }
    } else if busy > 0 && all as u64 > spared {
        Sureness::Likely
    } else {
        Sureness::Possible
    }
}

fn happened(kind: Kind, requests: &[Request], counts: &Counts) -> String {
    let zeros = counted(counts.zeros, "logon message");
    match kind {
        Kind::CutOff => {
            let culprits = requests.iter().filter(|r| !r.victims.is_empty()).count();
            format!(
                "Users cut one another off. {zeros} carried VcNumber 0, with which a client says \
                 \"I have restarted, end whatever else you have from my address\". After {culprits} \
                 of them the server ended {} from the same address within a second. Behind a NAT \
                 that address is everybody's; the users see error 64, \"The specified network name \
                 is no longer available\".",
                counted(counts.victims, "other connection"),
            )
        }
        Kind::CutOffBehindNat => format!(
            "The server ended {} of other clients within a second after a logon message with \
             VcNumber 0, with which a client says \"I have restarted, end whatever else you have \
             from my address\". That fits if the server sees all of them behind one address.",
            counted(counts.victims_elsewhere, "connection"),
        ),
        Kind::CameBack => format!(
            "{zeros} carried VcNumber 0, with which a client says \"I have restarted, end whatever \
             else you have from my address\", and the server ended {} of the very clients that \
             said so. Nobody else was cut off.",
            counted(counts.own_victims, "older connection"),
        ),
        Kind::TooEarly => format!(
            "{zeros} carried VcNumber 0, while other connections from the same address were open, \
             and the capture ends before it shows what the server did with them."
        ),
        Kind::Spared => format!(
            "{zeros} carried VcNumber 0, while other connections from the same address were open, \
             and the server ended none of them. It does not act on VcNumber 0."
        ),
        Kind::NobodyElse => format!(
            "{zeros} carried VcNumber 0, as Windows sends it, and nobody else was connected from \
             the same address who could have been cut off."
        ),
        Kind::NoZero => format!(
            "No session setup with VcNumber 0: {} carried another number. Nobody was cut off by \
             a logon.",
            match counts.session_setups {
                1 => "the one logon message".to_owned(),
                count => format!("all {count} logon messages"),
            }
        ),
        Kind::CutShort => format!(
            "{} cut off in front of the VcNumber.",
            match counts.cut_session_setups {
                1 => "The only logon message in the capture is".to_owned(),
                count => format!("All {count} logon messages in the capture are"),
            }
        ),
        Kind::NoLogon => format!(
            "No session setup with VcNumber 0: nobody logs on in this capture, in which there {} \
             of SMB1.",
            match counts.smb1 {
                1 => "is 1 connection".to_owned(),
                count => format!("are {count} connections"),
            },
        ),
        Kind::Smb2 => format!(
            "No session setup with VcNumber 0: {} to file servers, all of SMB2 or SMB3, which \
             have no VcNumber. The clients cannot cut one another off in this way.",
            counted(counts.smb2, "connection"),
        ),
        Kind::Encrypted => "The SMB1 connections are encrypted (UNIX extensions): their logons \
                            cannot be read. Clients that encrypt SMB1 do not send VcNumber 0."
            .to_owned(),
        Kind::Tunnel => "No connection to a file server (TCP ports 445 and 139), only the packets \
                         of a VPN, which nobody can look into from outside."
            .to_owned(),
        Kind::NoSmb => {
            "No connection to a file server (TCP ports 445 and 139) in this capture.".to_owned()
        }
    }
}

fn because(kind: Kind, sureness: Sureness, requests: &[Request], counts: &Counts) -> String {
    match (kind, sureness) {
        (Kind::CutOff, Sureness::Certain) => {
            "Each time the server ended every other connection of the address at once, also such \
             on which somebody was at work; and it spared none."
                .to_owned()
        }
        (Kind::CutOff, Sureness::Likely) if counts.victims == 1 => {
            "It fits, but one case may be chance.".to_owned()
        }
        (Kind::CutOff, Sureness::Likely) => {
            "Most of it fits, but some connections were spared, ended late, or were ended by \
             packets that look as if they came from a firewall."
                .to_owned()
        }
        (Kind::CutOff, Sureness::Possible) => {
            let busy = requests.iter().flat_map(|r| &r.victims).any(|v| v.busy);
            match busy {
                true => "More connections were spared than ended.".to_owned(),
                false => "Nobody was at work on the connections that ended. If the address is one \
                          computer's, it had restarted, and this is what VcNumber 0 is for."
                    .to_owned(),
            }
        }
        (Kind::CutOffBehindNat, _) => {
            "This capture shows the clients' own addresses; what the server sees is not in it."
                .to_owned()
        }
        (Kind::CameBack, _) => "The clients' own addresses say whose connections they were; \
                                users who share one computer look the same."
            .to_owned(),
        (Kind::TooEarly, _) => "Servers act on VcNumber 0 within a second.".to_owned(),
        (Kind::NobodyElse, _) => "It would take a second user who is connected.".to_owned(),
        (Kind::Spared, _) => "Servers without extended security, like Windows NT 4, and Samba by \
                              default are like that."
            .to_owned(),
        (Kind::NoZero, _) => "Only what is in the capture counts.".to_owned(),
        (Kind::CutShort | Kind::NoLogon | Kind::Tunnel | Kind::NoSmb, _) => {
            "This capture cannot tell.".to_owned()
        }
        (Kind::Smb2 | Kind::Encrypted, _) => "The protocol leaves no other way.".to_owned(),
    }
}

fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::CutOff => {
            "Let the clients' connections go through vcgate with hook = \"assign\" (its default): \
             it gives each client a VcNumber of its own. If this was captured behind vcgate, see \
             `vcgate smb` why these logons were not changed."
        }
        Kind::CutOffBehindNat => {
            "Capture on the server's side of the NAT and run `vcgate diagnose` on that, with \
             --against this file. If it is confirmed, vcgate with hook = \"assign\" cures it."
        }
        Kind::CameBack => {
            "Nothing, if these computers had crashed or lost the network; if not, look for the \
             reason there, and in the way to them. Behind vcgate, `vcgate smb` shows what became \
             of such connections."
        }
        Kind::TooEarly => {
            "Capture again, and stop it at least one second after somebody logged on."
        }
        Kind::Spared => {
            "Look for another cause: idle time-outs of the server (`net config server`), of \
             firewalls and NATs, or restarts of the server."
        }
        Kind::NobodyElse => {
            "Capture again while one user copies a file and another one logs on. To be safe \
             meanwhile: vcgate with hook = \"assign\"."
        }
        Kind::NoZero => {
            "If vcgate's hook is at work, it does what it should. If users are cut off \
             nevertheless, look for another cause: idle time-outs of the server \
             (`net config server`), of firewalls and NATs, or restarts of the server."
        }
        Kind::CutShort => "Capture whole packets: `tcpdump -s 0 -w FILE`.",
        Kind::NoLogon => {
            "Start the capture before the users log on and stop it after somebody was cut off."
        }
        Kind::Smb2 | Kind::Encrypted => {
            "If users are cut off nevertheless, look for another cause: idle time-outs of \
             firewalls and NATs, or restarts of the server."
        }
        Kind::Tunnel => {
            "Capture on the LAN, between the VPN's endpoint and the file server: \
             `tcpdump -i LAN_INTERFACE -s 0 -w FILE 'port 445 or port 139'`."
        }
        Kind::NoSmb => {
            "Capture between the clients and the file server: \
             `tcpdump -i INTERFACE -s 0 -w FILE 'port 445 or port 139'`."
        }
    }
}

/// What else servers ended, and what it looks like.
fn other_endings(endings: &[Ending], count: u64) -> String {
    let endings: Vec<_> = endings.iter().filter(|e| e.delay_ms.is_none()).collect();
    let idle = endings.iter().filter(|e| !e.busy).count();
    let odd = endings.iter().filter(|e| e.odd_ttl).count();
    let together = endings.windows(2).any(|pair| match pair {
        [one, other] => {
            other.time.since(one.time).as_secs() < 1 && one.client.ip() != other.client.ip()
        }
        _ => false,
    });
    let looks = if odd * 2 > endings.len() {
        "which looks like a firewall's doing"
    } else if together {
        "those of several clients at once, which looks like a restart of the server or its service"
    } else if idle * 2 > endings.len() {
        "mostly idle ones, which looks like a time-out"
    } else {
        "for reasons that the capture does not show"
    };
    format!(
        "Servers ended {} that had nothing to do with a VcNumber, {looks}.",
        counted(count, "more connection")
    )
}

fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
