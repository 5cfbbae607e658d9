//! How the server speaks on a flow, for segments in its name: what it last said beside its
//! numbers.

use super::Segment;
use serde::{Deserialize, Serialize};
use vcgate_wire::tcp::{TcpTimestamps, is_older};

/// What a segment from the server carries that says nothing new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpReplyTemplate {
    /// The window, as it stands in the header; none before the first segment behind the server's
    /// SYN, in which it is of another scale (RFC 7323 section 2.2).
    pub window: Option<u16>,
    /// If both ends have agreed on them: then a segment without them may be dropped (RFC 7323
    /// section 3.2).
    pub timestamps: Option<TcpTimestamps>,
}

impl TcpReplyTemplate {
    /// The server said this. The clock only goes forward, whatever the order in which segments
    /// come, and never beyond what the server said: that would make the client take the server's
    /// next segments for old ones (RFC 7323 section 5.3).
    pub(super) fn observe(&mut self, segment: &Segment) {
        if segment.syn {
            (self.window, self.timestamps) = (None, segment.timestamps);
            return;
        }
        let is_old = match (self.timestamps, segment.timestamps) {
            (Some(last), Some(this)) => is_older(this.value, last.value),
            _ => false,
        };
        if is_old || segment.rst {
            return;
        }
        self.window = Some(segment.window);
        self.timestamps = segment.timestamps.or(self.timestamps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc7323_3_2_the_last_that_the_server_said() {
        let said = |syn, window, value: Option<u32>| Segment {
            syn,
            window,
            timestamps: value.map(|value| TcpTimestamps { value, echo: 9 }),
            seq: 0,
            ack: Some(0),
            rst: false,
            fin: false,
            sack_permitted: false,
        };
        let (before_wrap, after_wrap) = (u32::MAX - 1, 3);
        let timestamps = |value| Some(TcpTimestamps { value, echo: 9 });
        let mut reply_template = TcpReplyTemplate::default();
        reply_template.observe(&said(true, 64_000, Some(before_wrap)));
        assert_eq!(
            (reply_template.window, reply_template.timestamps),
            (None, timestamps(before_wrap))
        );
        reply_template.observe(&said(false, 500, Some(after_wrap)));
        // One from before, late; and a RST, which has none.
        reply_template.observe(&said(false, 400, Some(before_wrap)));
        reply_template.observe(&Segment {
            rst: true,
            ..said(false, 0, None)
        });
        assert_eq!(
            (reply_template.window, reply_template.timestamps),
            (Some(500), timestamps(after_wrap))
        );
        // The next connection between the same ends goes without.
        reply_template.observe(&said(true, 64_000, None));
        reply_template.observe(&said(false, 300, None));
        assert_eq!(
            (reply_template.window, reply_template.timestamps),
            (Some(300), None)
        );
    }
}
