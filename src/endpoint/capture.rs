//! `vcgate capture`: the tap is put into the shard and taken out again, and what it caught is
//! put into words here, where nobody waits for it.

use super::clock::{Clock, unix_nanos};
use super::running::Running;
use crate::capture::{Counts, Packet};
use crate::control::capture::Captured;
use crate::control::endpoint::Refusal;
use crate::engine::{Catch, Filter, Side};
use std::cell::{Cell, RefCell};

/// The capture that runs, if one does.
#[derive(Default)]
pub(super) struct Capturing {
    /// Both clocks, as they were at its start: its times never jump.
    clock: Cell<Option<Clock>>,
    /// What the shard gets in exchange for what it has caught.
    spare: RefCell<Catch>,
}

impl Running {
    pub(super) async fn start_capture(&self, filter: Filter) -> Result<(), Refusal> {
        let Capturing { clock, spare } = &self.capturing;
        if clock.get().is_some() {
            return Err(Refusal {
                message: "a capture is running already".into(),
                remedy: Some("stop it with Ctrl-C where it was started".into()),
            });
        }
        clock.set(Some(Clock::read()));
        if let Some(name) = filter.peer.clone()
            && !self.has_peer(name.clone()).await
        {
            clock.set(None);
            return Err(Refusal {
                message: format!("there is no peer {name:?}"),
                remedy: Some("see `vcgate peer list`".into()),
            });
        }
        *spare.borrow_mut() = Catch::with_room();
        self.ask(move |engine, _| engine.start_capture(filter))
            .await;
        Ok(())
    }

    pub(super) async fn take_capture(&self) -> Captured {
        let empty = self.capturing.spare.take();
        let caught = self.ask(move |engine, _| engine.take_capture(empty)).await;
        let captured = self.describe_catch(&caught);
        self.capturing.spare.replace(caught);
        captured
    }

    pub(super) async fn stop_capture(&self) -> Captured {
        let caught = self.ask(|engine, _| engine.stop_capture()).await;
        let captured = self.describe_catch(&caught);
        self.capturing.spare.take();
        self.capturing.clock.set(None);
        captured
    }

    async fn has_peer(&self, name: String) -> bool {
        self.ask(move |engine, _| engine.tunnel().peers().any(|peer| peer.name == name))
            .await
    }

    fn describe_catch(&self, caught: &Catch) -> Captured {
        let clock = self.capturing.clock.get().unwrap_or_else(Clock::read);
        let packets = caught.frames().map(|(frame, bytes)| Packet {
            side: frame.side,
            direction: frame.story.direction,
            unix_nanos: unix_nanos(clock.time_of_day(frame.at)),
            comment: frame.story.to_string(),
            bytes: bytes.to_vec(),
        });
        Captured {
            packets: packets.collect(),
            dropped: Counts {
                tunnel: caught.dropped(Side::Tunnel),
                lan: caught.dropped(Side::Lan),
            },
        }
    }
}
