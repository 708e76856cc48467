//! The daemon.

/// Requests are allocated by threads that serve them and freed by the engine, answers the other way round: with the C
/// library's allocator they wait for each other. SQLite, whose memory stays on one thread, has that one still: of pages
/// and what SQLite keeps with them this one would round 4.3 KiB up to 5.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    payd::daemon::main()
}
