//! Chance, from the operating system.

use crate::application::ports::Random;

/// The operating system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        // Without chance there are no ids that are surely new; there is nothing sensible to go on with.
        getrandom::fill(bytes).expect("the operating system gives random numbers");
    }
}
