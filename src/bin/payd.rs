//! The daemon.

fn main() -> std::process::ExitCode {
    payd::daemon::main()
}
