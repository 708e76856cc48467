//! Connections that are used again: that saves time, and never turns into a second charge or into
//! an answer to another question.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use serde_json::json;

use super::{REQUESTED, SUCCEEDED, no_charge_was_repeated, story};
use crate::support::daemon::until;
use crate::support::stub::{Act, Call, Stub, bytes};

const PAYMENTS: usize = 20;

fn approval(call: &Call) -> Vec<u8> {
    bytes(200, &[], call.echo("succeeded").to_string().as_bytes())
}

/// Pays one invoice after the other.
fn pay_in_turn(stub: &Stub) {
    let daemon = stub.daemon(&[]);
    for n in 0..PAYMENTS {
        let id = format!("inv-{n}");
        super::pay(&daemon, &id);
        daemon.until_invoice(&id, "PAID");
    }
    for n in 0..PAYMENTS {
        let id = format!("inv-{n}");
        assert_eq!(stub.count("POST", &id), 1, "{id}");
        no_charge_was_repeated(&daemon, stub, &id);
    }
    daemon.verify();
}

#[test]
fn a_connection_serves_one_charge_after_the_other() {
    let stub = Stub::start(|call| Act::Say(approval(call)));
    pay_in_turn(&stub);
    // One would do; a machine that stands still for seconds may need another.
    assert!(stub.connections() < PAYMENTS / 2, "{}", stub.connections());
}

#[test]
fn a_kept_connection_that_the_gateway_has_closed_costs_no_second_charge() {
    // Without a word about it: a charge that crosses with the end is unknown, and looked up.
    let stub = Stub::start(|call| Act::SayAndClose(approval(call)));
    pay_in_turn(&stub);
}

#[test]
fn a_kept_connection_that_the_gateway_has_reset_costs_no_second_charge() {
    let stub = Stub::start(|call| {
        // Every other charge ends its connection without an answer, all of them after being used.
        match (call.method.as_str(), call.before, call.connection % 2) {
            ("POST", 0, 1) => Act::Reset,
            _ => Act::Say(approval(call)),
        }
    });
    pay_in_turn(&stub);
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_the_answer_to_the_next_charge() {
    let refusal = bytes(
        422,
        &[],
        json!({"error": {"code": "no"}}).to_string().as_bytes(),
    );
    let said = refusal.clone();
    let stub = Stub::start(move |call| match call.invoice.as_str() {
        "two-answers" => Act::Say([approval(call), said.clone()].concat()),
        "a-long-one" => Act::Say([approval(call).as_slice(), b"{}"].concat()),
        _ => Act::Say(approval(call)),
    });
    let daemon = stub.daemon(&[]);
    for id in ["two-answers", "after-two", "a-long-one", "after-long"] {
        super::pay(&daemon, id);
        daemon.until_invoice(id, "PAID");
        assert_eq!(story(&daemon, id), [REQUESTED, SUCCEEDED], "{id}");
    }
    assert_eq!(stub.connections(), 3, "neither of the two was used again");

    // The same where the second answer comes when the first has long been read.
    let barrier = Arc::new(Barrier::new(2));
    let gate = Arc::clone(&barrier);
    let stub = Stub::start(move |call| match call.invoice.as_str() {
        "late" => Act::Twice(approval(call), refusal.clone(), Arc::clone(&gate)),
        _ => Act::Say(approval(call)),
    });
    let daemon = stub.daemon(&[]);
    super::pay(&daemon, "late");
    daemon.until_invoice("late", "PAID");
    barrier.wait();
    barrier.wait();
    super::pay(&daemon, "after-late");
    daemon.until_invoice("after-late", "PAID");
    assert_eq!(story(&daemon, "after-late"), [REQUESTED, SUCCEEDED]);
    let connections: Vec<usize> = stub.calls().iter().map(|it| it.connection).collect();
    assert_eq!(connections, [0, 1]);
}

#[test]
fn a_connection_whose_answer_was_not_waited_for_is_closed() {
    let stub = Stub::start(|call| match (call.method.as_str(), call.before) {
        ("POST", 0) => {
            let whole = approval(call);
            Act::Hold(whole[..whole.len() - 1].to_vec())
        }
        _ => Act::Say(approval(call)),
    });
    let daemon = stub.daemon(&[("PAYD_GATEWAY__TIMEOUT", "300ms")]);
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    until("payd has left", || stub.left() >= 1);
    let on_the_first = |call: &&Call| call.connection == 0;
    assert_eq!(stub.calls().iter().filter(on_the_first).count(), 1);
}

#[test]
fn a_connection_that_nobody_needs_is_closed_before_the_gateway_would() {
    let stub = Stub::start(|call| Act::Say(approval(call)));
    let daemon = stub.daemon(&[]);
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    until("payd has left", || stub.left() == 1);
    let kept = stub.calls()[0].at.elapsed();
    assert!(kept >= Duration::from_secs(4), "{kept:?}");
}
