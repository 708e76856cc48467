//! A fresh connection to the gateway: name, TCP, TLS. Nothing in here writes a byte of a request, so
//! whatever fails in here is provably not sent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::points;
use super::socket::{Socket, Watch};
#[cfg(feature = "tls")]
use super::tls::Tls;

/// How long the addresses of the gateway's name are used before they are asked for again: a burst
/// of connections asks once, and a failover is followed at once.
const ADDRESSES_KEPT: Duration = Duration::from_secs(1);

/// Threads that may wait for the system's resolver. It cannot be interrupted, and the threads are
/// those that the API reads with: a name server that hangs must leave it the others.
const RESOLVING_MAX: usize = 2;

/// The head of an answer, and what is buffered of its body.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The gateway's end of a connection, whatever it is made of.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that is ready for a request. It is closed when this is dropped.
pub(super) struct Connection {
    /// Hyper's end of it.
    pub(super) sender: SendRequest<Full<Bytes>>,
    watch: Watch,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Whether a request may go out on it after another: open, with nothing unread.
    pub(super) fn is_reusable(&self) -> bool {
        !self.sender.is_closed() && self.watch.is_quiet()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Makes connections.
pub(super) struct Connector {
    host: String,
    port: u16,
    /// For name, TCP and TLS together.
    limit: Duration,
    addresses: Arc<Mutex<Option<Addresses>>>,
    resolving: Arc<Semaphore>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

struct Addresses {
    asked_at: Instant,
    found: Vec<SocketAddr>,
}

impl Connector {
    /// To a host name, or an address without brackets.
    pub(super) fn new(host: &str, port: u16, limit: Duration) -> Self {
        Self {
            host: host.to_owned(),
            port,
            limit,
            addresses: Arc::default(),
            resolving: Arc::new(Semaphore::new(RESOLVING_MAX)),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The same over TLS.
    #[cfg(feature = "tls")]
    pub(super) fn with_tls(self, tls: Tls) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    /// A connection that is ready for its first request; or why there is none.
    pub(super) async fn connect(&self) -> Result<Connection, String> {
        let deadline = Instant::now() + self.limit;
        match timeout_at(deadline, self.open(deadline)).await {
            Ok(opened) => opened,
            Err(_) => Err(format!(
                "no connection to {}:{} within {:?}",
                self.host, self.port, self.limit
            )),
        }
    }

    async fn open(&self, deadline: Instant) -> Result<Connection, String> {
        let stream = self.tcp(deadline).await?;
        let (socket, watch) = Socket::new(stream);
        let io = self.secure(socket).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(points::watch(io)))
            .await
            .map_err(|error| format!("no connection to {}:{}: {error}", self.host, self.port))?;
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer is told by hyper; between two requests nobody needs to know.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the gateway broke");
            }
        });
        let ready = sender.ready().await;
        let connection = Connection {
            sender,
            watch,
            driver,
        };
        match ready {
            Ok(()) => Ok(connection),
            Err(error) => Err(format!(
                "{}:{} closed the connection before anything was sent: {error}",
                self.host, self.port
            )),
        }
    }

    async fn tcp(&self, deadline: Instant) -> Result<TcpStream, String> {
        let addresses = self.resolve().await?;
        let mut failed = format!("the name {} has no address", self.host);
        for (tried, address) in addresses.iter().enumerate() {
            // One address that does not answer must leave the others some time.
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // A request is one write: waiting to fill a packet only costs time.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY could not be set");
                    }
                    return Ok(stream);
                }
                Ok(Err(error)) => failed = format!("no connection to {address}: {error}"),
                Err(_) => failed = format!("no connection to {address} within {share:?}"),
            }
        }
        Err(failed)
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let gone = |_| "payd is stopping".to_owned();
        let place = Arc::clone(&self.resolving)
            .acquire_owned()
            .await
            .map_err(gone)?;
        if let Some(known) = self.known_addresses() {
            return Ok(known);
        }
        let (host, port) = (self.host.clone(), self.port);
        let addresses = Arc::clone(&self.addresses);
        let asking = move || -> io::Result<Vec<SocketAddr>> {
            // The place is free when the system's resolver has come back, not when its asker has left.
            let _place = place;
            let asked_at = Instant::now();
            let found: Vec<_> =
                std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port))?.collect();
            *addresses.lock().unwrap_or_else(PoisonError::into_inner) = Some(Addresses {
                asked_at,
                found: found.clone(),
            });
            Ok(found)
        };
        match tokio::task::spawn_blocking(asking).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(format!(
                "the name {} cannot be resolved: {error}",
                self.host
            )),
            Err(error) => Err(format!(
                "the name {} cannot be resolved: {error}",
                self.host
            )),
        }
    }

    fn known_addresses(&self) -> Option<Vec<SocketAddr>> {
        let kept = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.as_ref()
            .filter(|kept| kept.asked_at.elapsed() < ADDRESSES_KEPT)
            .map(|kept| kept.found.clone())
    }

    #[cfg(feature = "tls")]
    async fn secure(&self, socket: Socket) -> Result<Box<dyn Io>, String> {
        let Some(tls) = &self.tls else {
            return Ok(Box::new(socket));
        };
        match tls.wrap(socket).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(format!(
                "the TLS handshake with {}:{} failed: {error}",
                self.host, self.port
            )),
        }
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(&self, socket: Socket) -> Result<Box<dyn Io>, String> {
        Ok(Box::new(socket))
    }
}
