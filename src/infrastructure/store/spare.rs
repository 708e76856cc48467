//! Memory that SQLite has freed goes back to the system.
//!
//! SQLite's memory comes from the C library, and glibc gives back by itself only what is free at the end of a heap: of ten
//! MiB of pages that nobody needed any more it kept all, since something small lay behind them.

/// Has it give back all that is free. It takes as long as freeing it would have: this is for when nobody waits.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "the C library's own function, which takes no address"
)]
pub(super) fn give_back() {
    // SAFETY: it is declared as glibc has it (malloc_trim(3)), may be called at any time from any thread, and changes
    // nothing that anybody has a pointer to.
    unsafe extern "C" {
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // Whether anything was free is nobody's concern.
    let _ = malloc_trim(0);
}

/// Elsewhere it is left to the C library.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) const fn give_back() {}
