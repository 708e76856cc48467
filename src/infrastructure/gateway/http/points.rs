//! The failpoints of a charge that only the wire itself can tell: nothing at all without the
//! feature `failpoints`.

#[cfg(feature = "failpoints")]
pub(super) use armed::{reach, watch};

/// The connection as it is.
#[cfg(not(feature = "failpoints"))]
pub(super) fn watch<T>(io: T) -> T {
    io
}

/// Reaches a failpoint.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(super) const fn reach(name: &str) -> Result<(), crate::failpoints::Failed> {
    crate::failpoints::reach(name)
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use crate::failpoints::{self, Failed};

    /// Reaches a failpoint. One that pauses holds its thread, so the others' work moves elsewhere.
    pub(in super::super) fn reach(name: &str) -> Result<(), Failed> {
        tokio::task::block_in_place(|| failpoints::reach(name))
    }

    /// A connection that stops half-way through a charge, and at its end.
    pub(in super::super) struct Watched<T> {
        io: T,
        at: At,
    }

    /// Where in a charge it is.
    enum At {
        /// Not in one.
        Outside,
        /// So many bytes of its first half are yet to be written.
        FirstHalf(usize),
        /// The first half is written, and not yet flushed.
        Middle,
        SecondHalf,
    }

    pub(in super::super) fn watch<T>(io: T) -> Watched<T> {
        Watched {
            io,
            at: At::Outside,
        }
    }

    impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(context, buffer)
        }
    }

    /// Hyper writes a request whole, from one buffer, since vectored writes are not offered; so the
    /// first write shows how long it is.
    impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if matches!(self.at, At::Outside) && bytes.starts_with(b"POST ") {
                self.at = At::FirstHalf(bytes.len() / 2);
            }
            if matches!(self.at, At::Middle) {
                ready!(Pin::new(&mut self.io).poll_flush(context))?;
                self.at = At::SecondHalf;
                reach("gateway.mid_write").map_err(io::Error::other)?;
            }
            let part = match self.at {
                At::FirstHalf(left) => &bytes[..left.min(bytes.len())],
                _ => bytes,
            };
            let written = ready!(Pin::new(&mut self.io).poll_write(context, part))?;
            if let At::FirstHalf(left) = self.at {
                self.at = match left.saturating_sub(written) {
                    0 => At::Middle,
                    left => At::FirstHalf(left),
                };
            }
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            if matches!(self.at, At::SecondHalf) {
                self.at = At::Outside;
                reach("gateway.written").map_err(io::Error::other)?;
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(context)
        }
    }
}
