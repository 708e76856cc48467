//! payd measured against a ceiling: a sketch of the least that a durable payment service could be, on
//! the same framework, database and machine, so that every figure is a ratio within one run.
//!
//! One binary plays every part: it starts payd (the release build that cargo makes with it), starts
//! itself as the sketch and as the gateway, makes the load, and prints what came of it. `cargo bench`
//! compares; `cargo bench -- limits` and `cargo bench -- growth` measure what has no ceiling. What the
//! figures mean is in docs/PERFORMANCE.md.

// A tool for developers: a broken run should end where it broke, and its figures are floats.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod arguments;
mod compare;
mod figures;
mod gateway;
mod limits;
mod load;
mod ordinary;
mod promising;
mod readers;
mod seed;
mod server;
mod sketch;
mod wire;

use clap::Parser;

use arguments::{Arguments, Part, Which};

fn main() {
    let arguments = Arguments::parse();
    match arguments.part {
        None => compare::run(&arguments.compare),
        Some(Part::Compare(compare)) => compare::run(&compare),
        Some(Part::Limits(arguments)) => limits::limits(&arguments),
        Some(Part::Growth(arguments)) => limits::growth(&arguments),
        Some(Part::Sketch(arguments)) => match arguments.which {
            Which::Least | Which::LeastKeyed => sketch::run(&arguments),
            Which::Ordinary | Which::OrdinaryKeyed => ordinary::run(&arguments),
            Which::Promising => promising::run(&arguments),
        },
        Some(Part::Gateway) => gateway::run(),
    }
}
