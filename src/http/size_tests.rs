//! How large the futures of a request are. Each is moved before it is first polled, and what is beyond a
//! kilobyte does not come from malloc's cache: a variable that lives across an `await` in the wrong place
//! shows here, and nowhere else. Smaller is welcome: lower the number.

use std::sync::Arc;

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;

use super::call::Call;
use super::context::{self, Peer, Shared};
use super::{invoices, payments};

/// Of a handler's future.
fn handler<F>(_: impl Fn(Call) -> F) -> usize {
    size_of::<F>()
}

/// Of the future that a connection has.
fn answer<F>(
    _: impl Fn(&Arc<Shared>, &Peer, Request<Incoming>, fn(Response) -> Response) -> F,
) -> usize {
    size_of::<F>()
}

#[test]
fn a_request_is_small_where_it_is_moved() {
    for (what, size, max) in [
        ("a call", size_of::<Call>(), 48),
        ("an answer", answer(context::answer), 352),
        ("create", handler(invoices::create), 1272),
        ("pay", handler(payments::pay), 1752),
    ] {
        assert!(size <= max, "{what} takes {size} bytes");
    }
}
