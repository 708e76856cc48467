//! Listeners and connections, within their limits, and their orderly end. It knows no route.
//!
//! axum's own `serve` has no timeout for headers, so a half-sent request would hold its connection
//! for ever; hence an accept loop of our own.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
#[cfg(feature = "tls")]
use tokio::sync::watch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::context::{self, Options, Peer, Shared};
use super::peers::Peers;
use super::stall::Draining;
use super::worded::{Exchange, Worded};
use crate::application::App;

/// TCP connections at a time (`DESIGN.md`, section 8). More wait in the kernel's backlog.
const TCP_CONNECTIONS_MAX: usize = 512;

/// Connections at a time on the Unix socket. A budget of their own, so that whatever happens on TCP
/// an operator gets through.
const UNIX_CONNECTIONS_MAX: usize = 512;

/// How long headers may take (`DESIGN.md`, section 8). It counts from the last answer on, so a
/// connection that is kept alive is closed after as much silence.
const HEADER_READ_MAX: Duration = Duration::from_secs(5);

/// How far ahead a runtime's nearest timer is at most: nearer than those that every request and connection starts.
const NEAREST_TIMER: Duration = Duration::from_secs(4);

/// Headers, in bytes (`DESIGN.md`, section 8).
const HEADER_MAX: usize = 16 * 1024;

/// What a connection buffers: the headers, and an answer on its way. Little more than the headers may
/// have, as half-sent ones may be on every connection.
const BUFFER_MAX: usize = 20 * 1024;

/// How long a client may take nothing of what is written to it, before it is cut off. A slow reader
/// comes back with its cursor.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// The pause after an accept that failed for want of files or memory: some will be closed soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where payd listens. Bound by the caller.
#[derive(Debug)]
pub enum Listener {
    /// The Unix socket: who may open it may use it.
    Unix(UnixListener),
    /// TCP.
    Tcp(TcpListener),
    /// TCP, with TLS. What new connections are made with is read anew for each.
    #[cfg(feature = "tls")]
    Tls(TcpListener, watch::Receiver<Tls>),
}

/// What TLS connections are made with.
#[cfg(feature = "tls")]
#[derive(Clone)]
pub struct Tls {
    /// Certificate, key and what else there is.
    pub config: Arc<tokio_rustls::rustls::ServerConfig>,
    /// Whether the certificate is for a name, so that it is payd's.
    pub covers: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

#[cfg(feature = "tls")]
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// How connections of a listener begin.
#[derive(Debug, Clone)]
enum Wrap {
    Plain,
    #[cfg(feature = "tls")]
    Tls(watch::Receiver<Tls>),
}

/// Serves until `shutdown` is canceled. Then it stops accepting, ends event streams and lets
/// requests in flight finish, and returns when the last connection is closed. The caller puts the
/// grace time around it: dropping the future cuts the connections that are left.
///
/// TCP's connections are served on the runtime `tcp`, with which its listeners are registered: the
/// socket's requests, and the work on payments, never stand in line behind what comes over TCP.
pub async fn serve(
    app: Arc<App>,
    listeners: Vec<Listener>,
    tcp: &Handle,
    options: Options,
    shutdown: CancellationToken,
) {
    let shared = Arc::new(Shared::new(app, options, shutdown));
    let tcp_slots = Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX));
    let unix_slots = Arc::new(Semaphore::new(UNIX_CONNECTIONS_MAX));
    let peers = Arc::new(Peers::default());
    let mut nearest = JoinSet::new();
    nearest.spawn(keep_a_timer_near());
    nearest.spawn_on(keep_a_timer_near(), tcp);
    let mut loops = JoinSet::new();
    for listener in listeners {
        let server = Server {
            shared: Arc::clone(&shared),
        };
        match listener {
            Listener::Unix(listener) => {
                loops.spawn(server.accept_unix(listener, Arc::clone(&unix_slots)));
            }
            Listener::Tcp(listener) => {
                let (slots, peers) = (Arc::clone(&tcp_slots), Arc::clone(&peers));
                let accepting = server.accept_tcp(listener, Wrap::Plain, slots, peers);
                loops.spawn_on(accepting, tcp);
            }
            #[cfg(feature = "tls")]
            Listener::Tls(listener, tls) => {
                let (slots, peers) = (Arc::clone(&tcp_slots), Arc::clone(&peers));
                let accepting = server.accept_tcp(listener, Wrap::Tls(tls), slots, peers);
                loops.spawn_on(accepting, tcp);
            }
        }
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a listener stopped");
        }
    }
}

/// A timer that is nearer than the one that a runtime sleeps for wakes it, with a system call, so that it sleeps for
/// that one (tokio 1.54, `runtime/time/mod.rs`, `reregister`). Requests start timers of 5 and 10 s all the time and drop
/// them: half of them did so. While there is one that is nearer, they do not.
async fn keep_a_timer_near() {
    loop {
        tokio::time::sleep(NEAREST_TIMER).await;
    }
}

#[derive(Clone)]
struct Server {
    shared: Arc<Shared>,
}

impl Server {
    async fn accept_unix(self, listener: UnixListener, slots: Arc<Semaphore>) {
        let mut connections = JoinSet::new();
        while let Some((stream, slot)) = self
            .next(&mut connections, slots.clone(), || async {
                listener.accept().await.map(|(stream, _)| stream)
            })
            .await
        {
            connections.spawn(self.clone().serve_unix(stream, slot));
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn accept_tcp(
        self,
        listener: TcpListener,
        wrap: Wrap,
        slots: Arc<Semaphore>,
        peers: Arc<Peers>,
    ) {
        let mut connections = JoinSet::new();
        while let Some((stream, slot)) = self
            .next(&mut connections, slots.clone(), || async {
                listener.accept().await.map(|(stream, _)| stream)
            })
            .await
        {
            let (wrap, peers) = (wrap.clone(), Arc::clone(&peers));
            connections.spawn(self.clone().serve_tcp(stream, wrap, slot, peers));
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// The next connection, when there is a slot for it; `None` when payd drains.
    async fn next<S, F>(
        &self,
        connections: &mut JoinSet<()>,
        slots: Arc<Semaphore>,
        accept: impl Fn() -> F,
    ) -> Option<(S, OwnedSemaphorePermit)>
    where
        F: Future<Output = io::Result<S>>,
    {
        loop {
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                // The semaphore is never closed.
                let slot = slot.map_err(|error| io::Error::other(error.to_string()))?;
                accept().await.map(|stream| (stream, slot))
            };
            tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => return None,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection stopped");
                    }
                }
                accepted = next => match accepted {
                    Ok(accepted) => return Some(accepted),
                    // The client was gone before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be accepted; trying again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn serve_unix(self, stream: UnixStream, _slot: OwnedSemaphorePermit) {
        let uid = match stream.peer_cred() {
            Ok(credentials) => credentials.uid(),
            Err(error) => {
                tracing::warn!(%error, "a client of the socket cannot be told who it is");
                return;
            }
        };
        self.serve(stream, Peer::of_uid(uid)).await;
    }

    async fn serve_tcp(
        self,
        stream: TcpStream,
        wrap: Wrap,
        _slot: OwnedSemaphorePermit,
        peers: Arc<Peers>,
    ) {
        let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else {
            return; // It is gone already.
        };
        // Answers are small, and written whole: waiting to fill a segment only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        let _place = tokio::select! {
            biased;
            () = self.shared.shutdown.cancelled() => return,
            place = peers.place(remote.ip()) => place,
        };
        let (local, remote) = (local.ip(), remote.ip());
        match wrap {
            Wrap::Plain => {
                let names = None;
                let peer = Peer::Tcp {
                    local,
                    remote,
                    names,
                };
                self.serve(stream, peer).await;
            }
            #[cfg(feature = "tls")]
            Wrap::Tls(tls) => {
                let Tls { config, covers } = tls.borrow().clone();
                let names = Some(covers);
                let peer = Peer::Tcp {
                    local,
                    remote,
                    names,
                };
                let handshake = tokio_rustls::TlsAcceptor::from(config).accept(stream);
                // It has the time that headers have, and they theirs.
                let secured = tokio::select! {
                    biased;
                    () = self.shared.shutdown.cancelled() => return,
                    secured = tokio::time::timeout(HEADER_READ_MAX, handshake) => secured,
                };
                match secured {
                    Ok(Ok(stream)) => Box::pin(self.serve(stream, peer)).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        }
    }

    async fn serve<S>(self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let exchange = Arc::new(Exchange::default());
        let refuse = {
            let shared = Arc::clone(&self.shared);
            move |status| context::refuse_unread(&shared, status)
        };
        let shutdown = self.shared.shutdown.clone();
        let stream = guarded(stream, shutdown, Arc::clone(&exchange), refuse);
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let answering = Exchange::begin(&exchange);
            context::answer(&self.shared, &peer, request, move |response| {
                Ok::<_, Infallible>(response.map(|body| answering.until_sent(body)))
            })
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ_MAX)
            .max_header_size(HEADER_MAX)
            .max_buf_size(BUFFER_MAX)
            .keep_alive(true);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shared.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Clients come and go; what a request did is in its own lines.
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// A connection with its limits, and with words for errors.
fn guarded<S, F>(
    stream: S,
    shutdown: CancellationToken,
    exchange: Arc<Exchange>,
    refuse: F,
) -> Worded<Draining<Pin<Box<TimeoutStream<S>>>>, F>
where
    S: AsyncRead + AsyncWrite,
    F: Fn(StatusCode) -> Option<Vec<u8>> + Unpin,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_STALL_MAX));
    let stream = Draining::new(Box::pin(stream), shutdown);
    Worded::new(stream, exchange, refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Write;

    /// Where a connection does not take several parts at a time, hyper copies all that it sends.
    #[tokio::test]
    async fn what_is_sent_is_not_copied_first() {
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(stream.is_write_vectored());
        let stream = guarded(stream, CancellationToken::new(), Arc::default(), |_| None);
        assert!(TokioIo::new(stream).is_write_vectored());
    }
}
