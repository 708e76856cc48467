//! The engine on the real store, with a clock that stands where the test puts it.

mod bench;
mod commands;
mod damage;
mod faults;
mod faulty;
mod gateway;
mod random_sequences;
mod time;
