//! payctl, the command line of payd: argv in, exit code out.

fn main() -> std::process::ExitCode {
    payd::cli::main()
}
