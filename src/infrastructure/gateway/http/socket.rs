//! A TCP connection that can be looked at while someone else reads and writes it.
//!
//! The pool must know whether the other side has closed, or has said something that nobody asked
//! for, at the very moment at which a connection is used again: an answer that was there before the
//! question is not an answer to it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The half that reads and writes.
pub(super) struct Socket(Arc<TcpStream>);

/// The half that looks.
pub(super) struct Watch(Arc<TcpStream>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> (Self, Watch) {
        let stream = Arc::new(stream);
        (Self(Arc::clone(&stream)), Watch(stream))
    }
}

impl Watch {
    /// Open, and nothing has come that was not read: asked of the kernel itself, since the runtime
    /// hears of it later.
    pub(super) fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = rustix::net::recv(&*self.0, &mut [0_u8; 1], flags);
        matches!(seen, Err(rustix::io::Errno::WOULDBLOCK))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.read_some(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_with(context, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_with(context, |stream| stream.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is with the kernel already.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.0, Shutdown::Write).map_err(io::Error::from))
    }
}

impl Socket {
    /// Reads what there is. A read that does not fill the buffer has taken all of it: the runtime is told
    /// so, as its own streams tell it, or it would have the kernel asked once more to hear "nothing".
    fn read_some(&self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let mut done = false;
        let read = self.0.try_io(Interest::READABLE, || {
            let room = buffer.remaining();
            let count = self.0.try_read_buf(buffer)?;
            done = true;
            match count {
                // An end stays readable.
                0 => Ok(()),
                _ if count < room => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        });
        match done {
            true => Ok(()),
            false => read,
        }
    }

    fn write_with(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener};

    use tokio::io::AsyncReadExt;

    use super::*;

    async fn pair() -> (Socket, Watch, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let (socket, watch) = Socket::new(stream);
        (socket, watch, theirs)
    }

    /// Asked of the kernel: the runtime has no turn in between in which it could hear of it.
    fn until_not_quiet(watch: &Watch) {
        let start = std::time::Instant::now();
        while watch.is_quiet() {
            assert!(start.elapsed().as_secs() < 60);
        }
    }

    #[tokio::test]
    async fn a_word_and_an_end_are_seen_before_anyone_reads() {
        let (_socket, watch, mut theirs) = pair().await;
        assert!(watch.is_quiet());
        theirs.write_all(b"HTTP").unwrap();
        until_not_quiet(&watch);

        let (_socket, watch, theirs) = pair().await;
        assert!(watch.is_quiet());
        theirs.shutdown(Shutdown::Write).unwrap();
        until_not_quiet(&watch);

        let (_socket, watch, theirs) = pair().await;
        rustix::net::sockopt::set_socket_linger(&theirs, Some(std::time::Duration::ZERO)).unwrap();
        drop(theirs);
        until_not_quiet(&watch);
    }

    #[tokio::test]
    async fn what_was_read_to_its_end_is_not_asked_for_again_and_nothing_is_missed() {
        let (mut socket, _watch, mut theirs) = pair().await;
        let mut buffer = [0; 8];
        for said in [&b"short"[..], b"whole it", b"again"] {
            theirs.write_all(said).unwrap();
            let mut heard = Vec::new();
            while heard.len() < said.len() {
                let count = socket.read(&mut buffer).await.unwrap();
                heard.extend_from_slice(&buffer[..count]);
            }
            assert_eq!(heard, said);
        }
        let asked = socket.0.try_io(Interest::READABLE, || Ok(()));
        assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(socket.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(socket.read(&mut buffer).await.unwrap(), 0);
    }
}
