//! Disks that are full, read-only, broken or that lie; databases that are damaged; clocks that jump.
//! A real payd on a disk that a test controls. What a test needs and the machine lacks is told as SKIPPED.

mod broken;
mod damaged;
mod full;
mod held;
mod time;

use crate::support::faults::{Faults, can_mount, notice};

/// Set where it is a failure that nothing could be tested: on the machines that decide what lands.
const REQUIRED: &str = "PAYD_STORAGE_TESTS_REQUIRED";

#[test]
fn where_it_decides_what_lands_disks_can_be_made_to_fail() {
    let (shim, mount) = (Faults::new().is_some(), can_mount());
    if !mount {
        notice("no file system can be mounted here with `unshare -Urm`");
    }
    let required = std::env::var_os(REQUIRED).is_some_and(|value| value != "0");
    assert!(
        shim || mount || !required,
        "neither a C compiler nor the right to mount: every test of a failing disk was skipped"
    );
}
