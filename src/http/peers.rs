//! How many connections each TCP peer has. More than its share wait: they are not refused, as a
//! client behind a full pool would be, and they are not served.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of one peer at a time (`DESIGN.md`, section 10), so that one cannot have them all.
const PEER_CONNECTIONS_MAX: usize = 64;

/// Peers remembered before those that have gone are forgotten.
const PEERS_KEPT: usize = 1024;

/// The peers that are connected.
#[derive(Default)]
pub(super) struct Peers(Mutex<HashMap<IpAddr, Weak<Semaphore>>>);

/// A peer's place for one connection.
pub(super) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    // Keeps the peer's count for as long as it has a connection.
    _peer: Arc<Semaphore>,
}

impl Peers {
    /// A place for a connection of this peer, when there is one.
    pub(super) async fn place(&self, ip: IpAddr) -> Place {
        let peer = self.peer(ip.to_canonical());
        Place {
            // The semaphore is never closed.
            _permit: Arc::clone(&peer).acquire_owned().await.ok(),
            _peer: peer,
        }
    }

    fn peer(&self, ip: IpAddr) -> Arc<Semaphore> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&ip).and_then(Weak::upgrade) {
            return peer;
        }
        if peers.len() >= PEERS_KEPT {
            peers.retain(|_, peer| peer.strong_count() > 0);
        }
        let peer = Arc::new(Semaphore::new(PEER_CONNECTIONS_MAX));
        peers.insert(ip, Arc::downgrade(&peer));
        peer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn one_peer_waits_for_itself_and_no_other() {
        let peers = Peers::default();
        let one: IpAddr = "127.0.0.1".parse().unwrap();
        let same: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let other: IpAddr = "127.0.0.2".parse().unwrap();
        let mut places = Vec::new();
        for _ in 0..PEER_CONNECTIONS_MAX {
            places.push(peers.place(one).await);
        }
        let short = Duration::from_millis(20);
        assert!(
            tokio::time::timeout(short, peers.place(same))
                .await
                .is_err()
        );
        assert!(
            tokio::time::timeout(short, peers.place(other))
                .await
                .is_ok()
        );
        places.pop();
        assert!(tokio::time::timeout(short, peers.place(one)).await.is_ok());
    }
}
