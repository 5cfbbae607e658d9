//! The timestamps of a flow (RFC 7323), for segments of our own in it: once both ends have agreed
//! on them, a segment without them may be dropped (section 3.2).

use super::Segment;

/// What a segment from the server carries that says nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamps {
    /// TSval: the server's clock, as it last told it.
    pub value: u32,
    /// TSecr: the client's.
    pub echo: u32,
}

/// The clocks of both ends, as they told them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clocks {
    client: Option<u32>,
    server: Option<u32>,
}

impl Clocks {
    pub fn client_said(&mut self, segment: &Segment) {
        note(&mut self.client, segment);
    }

    pub fn server_said(&mut self, segment: &Segment) {
        note(&mut self.server, segment);
    }

    /// None if the ends have not agreed on timestamps.
    pub fn stamps(&self) -> Option<Stamps> {
        Some(Stamps {
            value: self.server?,
            echo: self.client?,
        })
    }
}

/// With a SYN a clock begins, or there is none; later it only goes forward, whatever the order in
/// which segments come. Never beyond what its owner said: that would make the receiver take the
/// owner's next segments for old ones (section 5.3).
fn note(clock: &mut Option<u32>, segment: &Segment) {
    let goes_forward = |new: &u32| clock.is_none_or(|old| new.wrapping_sub(old) < 1 << 31);
    if segment.syn || segment.stamp.as_ref().is_some_and(goes_forward) {
        *clock = segment.stamp;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(syn: bool, stamp: Option<u32>) -> Segment {
        Segment {
            seq: 0,
            ack: None,
            syn,
            rst: false,
            fin: false,
            stamp,
        }
    }

    #[test]
    fn rfc7323_3_2_the_last_of_both_ends_and_only_if_both_agreed() {
        let (before_wrap, after_wrap) = (u32::MAX - 1, 3);
        let mut clocks = Clocks::default();
        clocks.client_said(&segment(true, Some(7)));
        assert_eq!(clocks.stamps(), None);
        clocks.server_said(&segment(true, Some(before_wrap)));
        clocks.server_said(&segment(false, Some(after_wrap)));
        // One from before, late; and one without, as a RST is.
        clocks.server_said(&segment(false, Some(before_wrap)));
        clocks.server_said(&segment(false, None));
        clocks.client_said(&segment(false, Some(9)));
        let stamps = Stamps {
            value: after_wrap,
            echo: 9,
        };
        assert_eq!(clocks.stamps(), Some(stamps));
        // The next connection between the same ends goes without.
        clocks.client_said(&segment(true, None));
        assert_eq!(clocks.stamps(), None);
        // Of this one, no SYN was seen.
        let mut clocks = Clocks::default();
        clocks.client_said(&segment(false, Some(1)));
        clocks.server_said(&segment(false, Some(2)));
        assert_eq!(clocks.stamps(), Some(Stamps { value: 2, echo: 1 }));
    }
}
