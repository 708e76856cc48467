//! Chance, from the operating system.

use std::cell::RefCell;

use crate::application::ports::Random;

/// Bytes that a thread fetches at a time.
const FETCHED: usize = 512;

/// What is as short as this comes out of what was fetched: ids and draws, of which there are several a
/// request. Secrets are longer, and come from the operating system each.
const SHORT: usize = 16;

/// The operating system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

struct Fetched {
    bytes: [u8; FETCHED],
    left: usize,
}

thread_local! {
    static FETCHED_BYTES: RefCell<Fetched> = const {
        RefCell::new(Fetched {
            bytes: [0; FETCHED],
            left: 0,
        })
    };
}

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        if bytes.len() > SHORT {
            fetch(bytes);
            return;
        }
        FETCHED_BYTES.with_borrow_mut(|fetched| {
            if fetched.left < bytes.len() {
                fetch(&mut fetched.bytes);
                fetched.left = FETCHED;
            }
            let from = fetched.left - bytes.len();
            let given = &mut fetched.bytes[from..from + bytes.len()];
            bytes.copy_from_slice(given);
            // Nothing is given out twice, nor stays to be read.
            given.fill(0);
            fetched.left = from;
        });
    }
}

fn fetch(bytes: &mut [u8]) {
    // Without chance there are no ids that are surely new; there is nothing sensible to go on with.
    getrandom::fill(bytes).expect("the operating system gives random numbers");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nothing_is_given_out_twice() {
        let draw = |_| {
            let mut bytes = [0; 10];
            SystemRandom.fill(&mut bytes);
            bytes
        };
        // Ten bytes do not go evenly into what is fetched, and this is several times that.
        let draws: Vec<_> = (0..1000).map(draw).collect();
        let other = std::thread::spawn(move || (0..1000).map(draw).collect::<Vec<_>>());
        let draws: HashSet<_> = draws.into_iter().chain(other.join().unwrap()).collect();
        assert_eq!(draws.len(), 2000);
        assert!(draws.iter().all(|it| it.iter().any(|byte| *byte != 0)));
    }
}
