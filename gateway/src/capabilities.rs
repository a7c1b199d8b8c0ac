//! What this process may do that others may not: the capabilities of Linux.

use std::io;

/// Makes what is permitted effective, for this thread and those that it starts later.
///
/// The program in our image has `CAP_NET_BIND_SERVICE` and `CAP_NET_ADMIN` as permitted only. Were they effective in the file, the kernel
/// would refuse to start it in a container without them, and most have neither. So what a Pod adds to its container
/// (`securityContext.capabilities.add`) is permitted at first, and becomes effective here.
///
/// # Errors
/// If the kernel does not know of capabilities.
#[cfg(target_os = "linux")]
pub fn raise() -> io::Result<()> {
    use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

    let sets = capabilities(None)?;
    if sets.effective != sets.permitted {
        set_capabilities(None, CapabilitySets { effective: sets.permitted, ..sets })?;
    }
    Ok(())
}

/// Elsewhere there are none.
///
/// # Errors
/// Never.
#[cfg(not(target_os = "linux"))]
pub fn raise() -> io::Result<()> {
    Ok(())
}
