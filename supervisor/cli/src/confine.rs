//! The rights of the broker's helpers.

use imsup_broker::Helper;
use imsup_linux::confinement::confine_helper;
use rustix::thread::CapabilitySet;

/// Confines the calling thread, which is this helper.
pub fn confine(helper: Helper) {
    let kept = match helper {
        // Many pipes of their full size (pipe(7), pipe-user-pages-soft).
        Helper::Published => CapabilitySet::SYS_RESOURCE,
        Helper::Names | Helper::PeerLookup | Helper::Resolvers => CapabilitySet::empty(),
    };
    confine_helper(&helper.to_string(), kept);
}
