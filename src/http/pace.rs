//! How often: requests of each token, where a rate is configured, and requests that failed to show
//! who they are. What is remembered of either is bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Tokens whose last requests are remembered before those that have been quiet are forgotten.
const TOKENS_KEPT: usize = 4096;

/// A rate for each token: the generic cell rate algorithm, in which one time is all that is kept of
/// each. Source: ITU-T I.371, appendix A.
pub(super) struct Rates {
    /// Between requests at the rate.
    every: Duration,
    /// What may come at once: a second's worth, and one request at least.
    ahead_max: Duration,
    due: Mutex<HashMap<String, Instant>>,
}

impl Rates {
    /// So many requests each `period`; none is one.
    pub(super) fn new(requests: u32, period: Duration) -> Self {
        let every = period / requests.max(1);
        Self {
            every,
            ahead_max: Duration::from_secs(1).max(every),
            due: Mutex::default(),
        }
    }

    /// Counts a request; or says how long to wait with it, where it does not count.
    pub(super) fn take(&self, token: &str) -> Result<(), Duration> {
        self.take_at(token, Instant::now())
    }

    fn take_at(&self, token: &str, now: Instant) -> Result<(), Duration> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() >= TOKENS_KEPT {
            due.retain(|_, at| *at > now);
        }
        let next = due.get(token).map_or(now, |at| (*at).max(now)) + self.every;
        let ahead = next.duration_since(now);
        if ahead > self.ahead_max {
            return Err(ahead - self.ahead_max);
        }
        due.insert(token.to_owned(), next);
        Ok(())
    }
}

/// The first pause after a request that failed to show who it is from; doubled with each more.
const SLOW_FIRST: Duration = Duration::from_millis(25);

/// The longest such pause.
const SLOW_MAX: Duration = Duration::from_secs(1);

/// A peer that fails no more for this long starts anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// Requests that are made to wait at a time: a fraction of the connections that there may be, so that
/// those who guess do not hold them all. More are turned away at once, unseen.
const SLOWED_MAX: usize = 32;

/// Peers remembered. One that is forgotten starts anew.
const PEERS_KEPT: usize = 1024;

/// Who has failed to show who they are, and how often. Only what fails waits: a good token of the same
/// peer is let in at once, since all users of a machine, or all behind a router, are one peer.
pub(super) struct Failures {
    waiting: Semaphore,
    peers: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(SLOWED_MAX),
            peers: Mutex::default(),
        }
    }
}

impl Failures {
    /// Waits for as long as this peer has deserved. Says whether it has: no, where too many wait.
    pub(super) async fn slow(&self, peer: IpAddr) -> bool {
        let pause = self.pause(peer.to_canonical(), Instant::now());
        let Ok(_place) = self.waiting.try_acquire() else {
            return false;
        };
        tokio::time::sleep(pause).await;
        true
    }

    fn pause(&self, peer: IpAddr, now: Instant) -> Duration {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_KEPT && !peers.contains_key(&peer) {
            peers.retain(|_, (_, last)| now.duration_since(*last) < FORGIVEN_AFTER);
            if peers.len() >= PEERS_KEPT {
                peers.clear();
            }
        }
        let (failures, last) = peers.entry(peer).or_insert((0, now));
        if now.duration_since(*last) >= FORGIVEN_AFTER {
            *failures = 0;
        }
        let pause = SLOW_FIRST.saturating_mul(1 << (*failures).min(16));
        *failures = failures.saturating_add(1);
        *last = now;
        pause.min(SLOW_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_its_rate_and_a_second_of_it_at_once() {
        let rates = Rates::new(10, Duration::from_secs(1));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for n in 0..10 {
            assert_eq!(rates.take_at("a", at(0)), Ok(()), "{n}");
        }
        assert_eq!(rates.take_at("a", at(0)), Err(Duration::from_millis(100)));
        assert_eq!(
            rates.take_at("b", at(0)),
            Ok(()),
            "another token has its own"
        );
        assert_eq!(rates.take_at("a", at(60)), Err(Duration::from_millis(40)));
        assert_eq!(
            rates.take_at("a", at(100)),
            Ok(()),
            "what was refused did not count"
        );
        let taken = (0..100_u64).filter(|n| rates.take_at("c", at(n * 10)).is_ok());
        assert_eq!(taken.count(), 19, "ten at once, and ten a second");

        let slow = Rates::new(2, Duration::from_secs(60));
        assert_eq!(slow.take_at("a", at(0)), Ok(()));
        assert_eq!(slow.take_at("a", at(0)), Err(Duration::from_secs(30)));
        assert_eq!(slow.take_at("a", at(30_000)), Ok(()));
    }

    #[test]
    fn what_fails_again_waits_longer_up_to_a_second() {
        let failures = Failures::default();
        let (one, other): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let now = Instant::now();
        let pauses: Vec<_> = (0..8)
            .map(|_| failures.pause(one, now).as_millis())
            .collect();
        assert_eq!(pauses, [25, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(failures.pause(other, now).as_millis(), 25);
        assert_eq!(failures.pause(one, now + FORGIVEN_AFTER).as_millis(), 25);
        for n in 0..=u16::MAX {
            let [a, b] = n.to_be_bytes();
            failures.pause([10, 0, a, b].into(), now);
        }
        assert!(failures.peers.lock().unwrap().len() <= PEERS_KEPT);
    }

    #[tokio::test]
    async fn those_who_wait_are_bounded_and_the_rest_are_not_made_to() {
        let failures = Failures::default();
        let peer = [127, 0, 0, 1].into();
        let _all = failures.waiting.acquire_many(32).await.unwrap();
        assert!(!failures.slow(peer).await);
    }
}
