//! Capabilities of the calling thread (capabilities(7)). It only removes them.

pub(super) use rustix::thread::CapabilitySet;
use rustix::thread::{
    CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
};
use std::io;

/// Drops all capabilities but `kept`; those that the thread does not have stay missing.
pub(super) fn keep(kept: CapabilitySet) -> io::Result<()> {
    let permitted = capabilities(None)?.permitted & kept;
    let sets = CapabilitySets {
        effective: permitted,
        permitted,
        // Nothing is passed on to programs. The kernel empties the ambient set with it.
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// The same, but programs that this process runs get the capabilities, too.
pub(super) fn keep_across_exec(kept: CapabilitySet) -> io::Result<()> {
    let permitted = capabilities(None)?.permitted & kept;
    let sets = CapabilitySets {
        effective: permitted,
        permitted,
        inheritable: permitted,
    };
    set_capabilities(None, sets)?;
    for capability in permitted.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_only_what_is_named_and_gains_nothing() {
        let thread = std::thread::spawn(|| {
            let before = capabilities(None).unwrap().permitted;
            keep(CapabilitySet::NET_ADMIN).unwrap();
            let sets = capabilities(None).unwrap();
            let expected = before & CapabilitySet::NET_ADMIN;
            assert_eq!((sets.permitted, sets.effective), (expected, expected));
            assert!(sets.inheritable.is_empty());
            keep(CapabilitySet::all()).unwrap();
            assert_eq!(capabilities(None).unwrap().permitted, expected);
            keep(CapabilitySet::empty()).unwrap();
            assert!(capabilities(None).unwrap().permitted.is_empty());
        });
        thread.join().unwrap();
    }
}
