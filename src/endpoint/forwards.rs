//! Forwards that come and go while the endpoint runs.

use super::assemble::nat_forward;
use super::handle::{EndpointHandle, refusal};
use crate::config::Forward;
use crate::control::endpoint::Refusal;
use crate::host::DnatRules;

impl EndpointHandle {
    pub(super) async fn open_forward(&self, forward: Forward) -> Result<(), Refusal> {
        let added = self.ask_all(move |engine, now| {
            let peer = engine.tunnel().route(forward.to.ip());
            let Some(peer) = peer else {
                return Err(format!("{} is no peer's address", forward.to.ip()));
            };
            let name = engine.tunnel().name(peer).unwrap_or_default().to_owned();
            let added = engine.add_forward(nat_forward(&forward), now);
            added.map(|()| name).map_err(|error| error.to_string())
        });
        let added: Result<Vec<_>, _> = added.await.into_iter().collect();
        let peer = match added {
            Ok(names) => names.into_iter().next(),
            Err(error) => {
                // The port may be in use in the one shard that has it.
                self.close(forward).await;
                return Err(refusal(error));
            }
        };
        let peer = peer.ok_or_else(|| refusal("the endpoint is stopping"))?;
        if let Some(doors) = self.dnat_rules_for(&forward)
            && let Err(error) = doors.forward_free_port(forward.port()).await
        {
            self.close(forward).await;
            return Err(refusal(error));
        }
        self.notes.forward(&forward, Some(&peer));
        Ok(())
    }

    pub(super) async fn close_forward(&self, forward: Forward) -> Result<(), Refusal> {
        if !self.close(forward).await {
            let (port, to) = (forward.port(), forward.to);
            return Err(Refusal {
                message: format!("LAN port {port} is not forwarded to {to}"),
                remedy: Some("see `vcgate forward list`".into()),
            });
        }
        self.notes.unforward(&forward);
        // Its client is not reached any more, whatever the kernel has to say: it may have lost the
        // port with the whole table.
        let port = forward.port();
        if let Some(doors) = self.dnat_rules_for(&forward)
            && let Err(error) = doors.stop_forwarding(port).await
        {
            tracing::warn!(%port, %error, "the forward is closed, but its port was not given back");
        }
        Ok(())
    }

    async fn close(&self, forward: Forward) -> bool {
        let removed =
            self.ask_all(move |engine, now| engine.remove_forward(nat_forward(&forward), now));
        removed.await.into_iter().any(|removed| removed)
    }

    /// Where clients share the machine's own address of its family.
    fn dnat_rules_for(&self, forward: &Forward) -> Option<&DnatRules> {
        self.guard.dnat_rules_for(forward)
    }
}
