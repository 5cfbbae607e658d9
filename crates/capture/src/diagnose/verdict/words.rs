//! The texts of a verdict.

use super::confidence::was_ending_others;
use super::{Confidence, Evidence, Kind, counted};
use crate::diagnose::Ending;

/// The meaning of VcNumber 0.
const MEANING: &str = "with which a client says \"I have restarted, end the other connections from \
                       my address\"";
/// A command that captures everything that a diagnosis needs.
const TCPDUMP: &str = "`tcpdump -i any -s 0 -w FILE 'tcp port 445 or tcp port 139'`";

/// Describes the events.
pub(super) fn happened(kind: Kind, evidence: &Evidence<'_>) -> String {
    let counts = evidence.counts;
    let mut text = by_kind(kind, evidence);
    if matches!(kind, Kind::CutOff | Kind::CutOffThroughNat) && counts.own_victims > 0 {
        text += &format!(
            " It also ended {} of the clients that logged on, which is the purpose of VcNumber 0.",
            counted(counts.own_victims, "older connection")
        );
    }
    if counts.lost > 0 && kind != Kind::LostBefore {
        text += &format!(
            " {} no longer known to the server when the client used {}: it had restarted, or a \
             firewall answered in its name.",
            were(counts.lost, "connection"),
            if counts.lost == 1 { "it" } else { "them" },
        );
    }
    let others = counts.endings.saturating_sub(counts.victims_elsewhere);
    if others > 0 {
        text += &format!(" {}", other_endings(evidence.endings, others));
    }
    text
}

fn by_kind(kind: Kind, evidence: &Evidence<'_>) -> String {
    let counts = evidence.counts;
    let zeros = counted(counts.zeros, "logon message");
    let connections = counted(counts.connections, "connection");
    match kind {
        Kind::CutOff => {
            let culprits = evidence.requests.iter();
            let culprits = culprits.filter(|r| !r.victims.is_empty()).count() as u64;
            format!(
                "Users cut one another off. {zeros} carried VcNumber 0, {MEANING}. After \
                 {culprits} of them the server ended {} from the same address within a second. \
                 With a NAT that address is shared by all users; they see error 64, \"The \
                 specified network name is no longer available\".",
                counted(counts.victims, "other connection"),
            )
        }
        Kind::CutOffThroughNat => format!(
            "The server ended {} of other clients within a second after a logon message with \
             VcNumber 0, {MEANING}. That fits if the server sees all of them under one address.",
            counted(counts.victims_elsewhere, "connection"),
        ),
        Kind::CameBack => format!(
            "{zeros} carried VcNumber 0, {MEANING}, and the server ended {} of the clients that \
             said so. No other client was cut off.",
            counted(counts.own_victims, "older connection"),
        ),
        Kind::LostBefore => format!(
            "{zeros} carried VcNumber 0, but no connection is known to have been ended for that. \
             The server no longer knew {} when the client used {}: it answered with a RST \
             without ACK, as RFC 9293 section 3.5.2 has it for connections that do not exist. So \
             the server had lost them before, for example in a restart.",
            counted(counts.lost, "connection"),
            if counts.lost == 1 { "it" } else { "them" },
        ),
        Kind::TooEarly => format!(
            "{zeros} carried VcNumber 0, while other connections from the same address were open, \
             and the capture ends before it shows what the server did with them."
        ),
        Kind::Unaffected if evidence.requests.iter().any(|r| r.seen_alive > 0) => format!(
            "{zeros} carried VcNumber 0, while other connections from the same address were open, \
             and the server ended none of them and used them later. It does not act on VcNumber 0."
        ),
        Kind::Unaffected => format!(
            "{zeros} carried VcNumber 0, while other connections from the same address were open, \
             and the server did not end them within a second; nor did it send anything on them \
             later."
        ),
        Kind::NoOtherClient => format!(
            "{zeros} carried VcNumber 0, as Windows sends it, and the capture shows no other SMB \
             connection from the same address that could have been cut off."
        ),
        Kind::Rewritten => format!(
            "The clients sent {} with VcNumber 0, and a gateway replaced the number: no logon \
             message with VcNumber 0 reached the server.",
            counted(counts.rewritten_zeros, "logon message"),
        ),
        Kind::NoZero => format!(
            "No session setup with VcNumber 0: {} carried another number. No client was cut off \
             by a logon in this capture.",
            match counts.session_setups {
                1 => "the one logon message".to_owned(),
                count => format!("all {count} logon messages"),
            }
        ),
        Kind::OneDirection => one_direction(evidence),
        Kind::TwoClocks => format!(
            "{zeros} carried VcNumber 0, but the two directions were captured with clocks that \
             differ: data was captured after its acknowledgement. So the capture does not show \
             what the server did after a logon."
        ),
        Kind::CutShort => {
            let frames = match evidence.capture.snap_length {
                Some(length) => format!("only the first {length} bytes of a frame were captured"),
                None => "the packets were not captured to their end".to_owned(),
            };
            match counts.cut_session_setups {
                0 => format!("{connections} to file servers, but {frames}, without the SMB in it."),
                1 => format!("The only logon message is cut off before the VcNumber: {frames}."),
                count => {
                    format!("All {count} logon messages are cut off before the VcNumber: {frames}.")
                }
            }
        }
        Kind::NoLogon => format!(
            "No session setup with VcNumber 0: no user logs on in this capture, in which there {} \
             of SMB1.",
            match counts.smb1 {
                1 => "is 1 connection".to_owned(),
                count => format!("are {count} connections"),
            },
        ),
        Kind::Smb2 if counts.smb2 == counts.connections => format!(
            "No session setup with VcNumber 0: {} to file servers, all of SMB2 or SMB3, which \
             have no VcNumber. The clients cannot cut one another off in this way.",
            counted(counts.smb2, "connection"),
        ),
        Kind::Smb2 => format!(
            "No session setup with VcNumber 0: of {connections} to file servers {} SMB2 or SMB3, \
             which have no VcNumber; the protocol of the others is not known.",
            match counts.smb2 {
                1 => "1 speaks".to_owned(),
                count => format!("{count} speak"),
            },
        ),
        Kind::Encrypted => "The SMB1 connections are encrypted (UNIX extensions): their logons \
                            cannot be read. Clients that encrypt SMB1 do not send VcNumber 0."
            .to_owned(),
        Kind::Declined => format!(
            "{} declined by the server or sent to another address: a NetBIOS call on port 139 \
             names the server, and this one does not answer to that name.",
            were(counts.declined, "NetBIOS call")
        ),
        Kind::Refused => format!(
            "{} refused: no file server listens there, or a firewall rejects the clients.",
            were(counts.refused, "connection")
        ),
        Kind::Unanswered => format!(
            "{} tried (TCP SYN) to a file server, and no answer was captured.",
            were(counts.unanswered, "connection")
        ),
        Kind::Unknown => format!(
            "{connections} to the ports of file servers (TCP 445 and 139), but no SMB could be \
             read on any: nothing was sent, or the capture begins in the middle of a message."
        ),
        Kind::Tunnel => {
            "No connection to a file server (TCP ports 445 and 139), only packets of a \
                         VPN, whose content cannot be seen from outside."
                .to_owned()
        }
        Kind::Unreadable => "No connection to a file server (TCP ports 445 and 139) in the frames \
                             that could be read, and there are frames that could not."
            .to_owned(),
        Kind::NoSmb => {
            "No connection to a file server (TCP ports 445 and 139) in this capture.".to_owned()
        }
    }
}

fn one_direction(evidence: &Evidence<'_>) -> String {
    let counts = evidence.counts;
    let connections = counted(counts.connections, "connection");
    if counts.segments_to_servers == 0 {
        return format!(
            "{connections} to file servers, and no packet to a file server was captured: the \
             clients' direction is missing, and with it every logon."
        );
    }
    if counts.segments_to_servers == counts.segments {
        return format!(
            "{connections} to file servers, and no packet from a file server was captured: the \
             servers' direction is missing. {} carried VcNumber 0, and what the server did with \
             other connections is not in the capture.",
            counted(counts.zeros, "logon message"),
        );
    }
    format!(
        "{} carried VcNumber 0. Of {} from the same or other addresses no packet from the file \
         server was captured, so what the server did with them is not in the capture.",
        counted(counts.zeros, "logon message"),
        counted(counts.only_to_server, "connection"),
    )
}

/// The reasons for the confidence.
pub(super) fn because(kind: Kind, confidence: Confidence, evidence: &Evidence<'_>) -> String {
    match kind {
        Kind::CutOff => cut_off(confidence, evidence).to_owned(),
        Kind::CutOffThroughNat => {
            "This capture shows the clients' own addresses; what the server sees is not in it."
                .to_owned()
        }
        Kind::CameBack => "The clients' own addresses say whose connections they were; users who \
                           share one computer look the same."
            .to_owned(),
        Kind::LostBefore => match evidence.counts.lost {
            1 => "A single connection may have been lost in other ways, and a firewall may answer \
                  in the server's name."
                .to_owned(),
            _ => "The kind of RST says so, but a firewall may have answered in the server's name."
                .to_owned(),
        },
        Kind::TooEarly => "Servers act on VcNumber 0 within a second.".to_owned(),
        Kind::NoOtherClient => "It would take a second user who is connected, and on the clients' \
                             side of a NAT the addresses do not show what the server sees."
            .to_owned(),
        Kind::Unaffected if confidence == Confidence::Possible => {
            "Only what a server sends later proves that it still has a connection.".to_owned()
        }
        Kind::Unaffected => "Servers without extended security, like Windows NT 4, and Samba by \
                             default are like that."
            .to_owned(),
        Kind::Rewritten => "Both sides of the gateway are in the capture.".to_owned(),
        Kind::NoZero => "Only what is in the capture counts.".to_owned(),
        Kind::Smb2 | Kind::Encrypted if confidence == Confidence::Certain => {
            "The protocol leaves no other way.".to_owned()
        }
        Kind::Unanswered => "The server may be unreachable or a firewall may drop the packets, or \
                             the servers' direction was not captured."
            .to_owned(),
        _ => "This capture cannot show more.".to_owned(),
    }
}

fn cut_off(confidence: Confidence, evidence: &Evidence<'_>) -> &'static str {
    let mut victims = evidence.requests.iter().flat_map(|r| &r.victims);
    let is_busy = victims.clone().any(|victim| victim.busy);
    let answers = victims.any(|victim| victim.answers);
    match confidence {
        Confidence::Certain => {
            "Each time the server ended every other connection of the address at once, also such \
             as were in use, and left none open."
        }
        _ if was_ending_others(evidence) => {
            "At the same time the server also ended connections for which the logon cannot be \
             the reason. A restart of the server or its service looks like this."
        }
        Confidence::Likely if answers => {
            "It fits, but some connections ended with a RST without ACK, which is also the answer \
             to a packet of a connection that the server no longer has."
        }
        Confidence::Likely if evidence.counts.victims == 1 => {
            "It fits, but one case may be chance."
        }
        Confidence::Likely => {
            "Most of it fits, but some connections were left open, ended late, were ended by \
             packets that look like a firewall's, or are not completely in the capture."
        }
        Confidence::Possible if is_busy => "At least as many connections were left open as ended.",
        Confidence::Possible => {
            "None of the connections that ended was in use. If the address is one computer's, it \
             had restarted, and this is the purpose of VcNumber 0."
        }
    }
}

/// Describes the remedy.
pub(super) fn advice(kind: Kind, evidence: &Evidence<'_>) -> String {
    match kind {
        Kind::CutOff => {
            "Let the clients' connections go through vcgate with hook = \"assign\" (its default): \
             it gives each client its own VcNumber. If this was captured on vcgate's LAN side, \
             `vcgate smb` shows why these logons were not changed."
        }
        Kind::CutOffThroughNat => {
            "Capture on the server's side of the NAT and run `vcgate diagnose` on that, with \
             --against this file. If it is confirmed, vcgate with hook = \"assign\" prevents it."
        }
        Kind::CameBack => {
            "Nothing, if these computers had crashed or lost the network; if not, look for the \
             reason there, and in the network between them and the server. With vcgate, `vcgate \
             smb` shows what happened to such connections."
        }
        Kind::LostBefore => {
            "Look in the server's event log for a restart of the server or its service at that \
             time, and in firewalls for connections that they forget."
        }
        Kind::TooEarly => {
            "Capture again, and stop it at least one second after a user has logged on."
        }
        Kind::Unaffected => {
            "Look for another cause: idle time-outs of the server (`net config server`), of \
             firewalls and NATs, or restarts of the server."
        }
        Kind::NoOtherClient => {
            "Capture again, on the server's side of the NAT, while one user copies a file and \
             another one logs on. To be safe meanwhile: vcgate with hook = \"assign\"."
        }
        Kind::Rewritten => {
            "The hook works. If users are cut off nevertheless, look for another cause: idle \
             time-outs of the server (`net config server`), of firewalls and NATs, or restarts of \
             the server."
        }
        Kind::NoZero => {
            "If users are cut off nevertheless, look for another cause: idle time-outs of the \
             server (`net config server`), of firewalls and NATs, or restarts of the server."
        }
        Kind::OneDirection => {
            return format!(
                "Capture both directions, on the file server or on the gateway: {TCPDUMP}. On a \
                 switch, mirror both directions of the port."
            );
        }
        Kind::TwoClocks => {
            return format!(
                "Capture both directions on one machine: {TCPDUMP}. Or correct the clock of one \
                 direction with `editcap -t SECONDS IN OUT` and merge again."
            );
        }
        Kind::CutShort => return format!("Capture whole packets: {TCPDUMP}."),
        Kind::NoLogon => {
            "Start the capture before the users log on and stop it after a user was cut off."
        }
        Kind::Smb2 | Kind::Encrypted => {
            "If users are cut off nevertheless, look for another cause: idle time-outs of \
             firewalls and NATs, or restarts of the server."
        }
        Kind::Declined => {
            "Call the server by its NetBIOS name, or let the clients use port 445, which needs no \
             name."
        }
        Kind::Refused => {
            "Start the file server's service, or permit TCP port 445 in the firewall between it \
             and the clients."
        }
        Kind::Unanswered => {
            "Check that the server runs and that it and the clients reach one another (routes, \
             firewalls); capture on the server to see whether the packets arrive."
        }
        Kind::Unknown => {
            return format!(
                "Capture while a user logs on and another one works: {TCPDUMP}, started before the \
                 logon."
            );
        }
        Kind::Tunnel => {
            return format!(
                "Capture on the LAN, between the VPN's endpoint and the file server: {TCPDUMP}."
            );
        }
        Kind::Unreadable => {
            let unread = evidence.capture.unread.iter();
            let first = unread.clone().find(|unread| unread.may_hide_smb);
            let reason = first.map_or("unknown", |unread| &unread.reason);
            return format!(
                "Capture where the packets are plain Ethernet or IP ({reason}): {TCPDUMP} on the \
                 file server."
            );
        }
        Kind::NoSmb => {
            return format!("Capture between the clients and the file server: {TCPDUMP}.");
        }
    }
    .to_owned()
}

/// Describes other connections that servers ended, and the likely reason.
fn other_endings(endings: &[Ending], count: u64) -> String {
    let is_other = |ending: &&Ending| ending.delay_ms.is_none() && !ending.answers;
    let endings: Vec<_> = endings.iter().filter(is_other).collect();
    let idle = endings.iter().filter(|e| !e.busy).count();
    let odd = endings.iter().filter(|e| e.odd_ttl).count();
    let together = endings.windows(2).any(|pair| match pair {
        [one, other] => other.time.since(one.time).as_secs() < 1 && one.client != other.client,
        _ => false,
    });
    let looks = if odd * 2 > endings.len() {
        "by packets whose TTL is not the server's, as a firewall sends them"
    } else if together {
        "several of them within a second, which looks like a restart of the server or its service"
    } else if idle * 2 > endings.len() {
        "mostly idle ones, which looks like a time-out"
    } else {
        "for reasons that the capture does not show"
    };
    format!(
        "Servers ended {} without a VcNumber 0 before, {looks}.",
        counted(count, "connection")
    )
}

fn were(count: u64, noun: &str) -> String {
    let verb = if count == 1 { "was" } else { "were" };
    format!("{} {verb}", counted(count, noun))
}
