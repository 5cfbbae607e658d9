//! Puts packets on their way, with the faults of the links.

use super::*;

impl Network {
    pub(super) fn dispatch(&mut self, mut out: EngineOutput) {
        while !out.messages.is_empty() {
            let now = self.now;
            let mut touched = BTreeSet::new();
            for (shard, messages) in std::mem::take(&mut out.messages) {
                self.shard(shard.into())
                    .deliver_message(messages, now, &mut out);
                touched.insert(shard);
            }
            for shard in touched {
                self.shard(shard.into()).flush(now, &mut out);
            }
        }
        for (to, mark, bytes) in out.datagrams {
            self.sent_ecn_marks.push(mark);
            if let Some(i) = self.clients.iter().position(|c| c.address == to) {
                self.send(Destination::Client(i), bytes);
            }
        }
        for packet in out.lan {
            if self.keep_lan {
                self.on_lan.push(packet.clone());
            }
            self.send(Destination::Server, packet);
        }
    }

    pub(super) fn send(&mut self, to: Destination, bytes: Vec<u8>) {
        self.record_message(to, &bytes);
        let lan = matches!(to, Destination::Server | Destination::EngineFromLan);
        let (faults, latency) = if lan {
            (self.lan_faults, LAN_LATENCY)
        } else {
            (self.faults, self.latency)
        };
        let copies = 1 + usize::from(self.rng.random_bool(faults.duplicate));
        for _ in 0..copies {
            if self.rng.random_bool(faults.loss) {
                continue;
            }
            let late = if self.rng.random_bool(faults.reorder) {
                latency * 2
            } else {
                Duration::ZERO
            };
            self.sent += 1;
            let flight = InFlight {
                due: self.now + latency + late,
                serial: self.sent,
                to,
                bytes: bytes.clone(),
            };
            self.in_flight.push(Reverse(flight));
        }
    }

    fn record_message(&mut self, to: Destination, bytes: &[u8]) {
        let from = match to {
            Destination::Engine { from } => from,
            Destination::Client(_) => return self.messages[0].extend(bytes.first()),
            Destination::Server | Destination::EngineFromLan => return,
        };
        self.messages[1].extend(bytes.first());
        let Some(client) = self.clients.iter_mut().find(|c| c.address == from) else {
            return;
        };
        match bytes.first() {
            Some(&INITIATION) => {
                client.expected = bytes.get(4..).and_then(|b| b.first_chunk().copied())
            }
            Some(&RESPONSE) => client.expected = None,
            _ => {}
        }
    }
}
