//! Place × action × fate of the charge, as a table.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::gateway::Gateway;

use super::story::{Ends, FATES, Fate, Story, Way};

/// Stories told at the same time. They mostly wait.
const AT_ONCE: usize = 6;

/// What the gateway may have seen of the charge when payd ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// No whole request.
    Nothing,
    /// At least one.
    Asked,
    /// That depends.
    Either,
}

/// A place, on the way of a payment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) way: Way,
    /// By then.
    pub(super) seen: Seen,
    /// Whether the payment is SENDING then, so that the next start must call it unknown.
    pub(super) sending: bool,
}

const fn place(name: &'static str, way: Way, seen: Seen, sending: bool) -> Place {
    Place {
        name,
        way,
        seen,
        sending,
    }
}

/// Around every kind of commit.
const COMMITS: &[Place] = &[
    place("commit.before.create", Way::Pay, Seen::Nothing, false),
    place("commit.after.create", Way::Pay, Seen::Nothing, false),
    place("commit.before.pay", Way::Pay, Seen::Nothing, false),
    // The claim can be part of the same commit.
    place("commit.after.pay", Way::Pay, Seen::Nothing, false),
    place("commit.before.claim", Way::Pay, Seen::Nothing, false),
    place("commit.after.claim", Way::Pay, Seen::Nothing, true),
    place("commit.before.settle", Way::Pay, Seen::Asked, true),
    place("commit.after.settle", Way::Pay, Seen::Asked, false),
    place("commit.before.look", Way::LookUp, Seen::Asked, false),
    place("commit.after.look", Way::LookUp, Seen::Asked, false),
    place("commit.before.found", Way::LookUp, Seen::Asked, false),
    place("commit.after.found", Way::LookUp, Seen::Asked, false),
    place("commit.before.cancel", Way::Cancel, Seen::Asked, false),
    place("commit.after.cancel", Way::Cancel, Seen::Asked, false),
    place("commit.before.resolve", Way::Resolve, Seen::Asked, false),
    place("commit.after.resolve", Way::Resolve, Seen::Asked, false),
    place("commit.before.recover", Way::Recover, Seen::Either, true),
    place("commit.after.recover", Way::Recover, Seen::Either, false),
    place("commit.before.pause", Way::Pause, Seen::Nothing, false),
    place("commit.after.pause", Way::Pause, Seen::Nothing, false),
];

/// On the way to the gateway and back.
const GATEWAY: &[Place] = &[
    place("gateway.connected", Way::Pay, Seen::Nothing, true),
    place("gateway.mid_write", Way::Pay, Seen::Nothing, true),
    place("gateway.written", Way::Pay, Seen::Either, true),
    place("gateway.mid_answer", Way::Pay, Seen::Asked, true),
    place("gateway.answered", Way::Pay, Seen::Asked, true),
    place("lookup.answered", Way::LookUp, Seen::Asked, false),
    place("resend.before", Way::SendAgain, Seen::Asked, true),
];

/// Told to stop while the gateway has not answered yet.
const DRAIN: &[Place] = &[
    place("drain.begin", Way::Drain, Seen::Asked, true),
    place("drain.workers_done", Way::Drain, Seen::Asked, false),
];

/// While the first start of all makes the tables. (Behind the copy that is made before a later
/// migration is no row yet: there is only the first.)
const MIGRATION: &[Place] = &[place("migration.mid", Way::Migrate, Seen::Nothing, false)];

/// Tells the story of each place with each fate.
fn tell(places: &[Place], action: &'static str, ends: Ends) {
    let gateway = Gateway::start();
    let rows: Vec<_> = places
        .iter()
        .flat_map(|place| FATES.iter().map(move |fate| (*place, *fate)))
        // What the gateway has not decided, no operator can.
        .filter(|(place, fate)| (place.way, *fate) != (Way::Resolve, Fate::Pending))
        .collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((place, fate)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let story = Story {
                        place: *place,
                        action,
                        ends,
                        fate: *fate,
                        gateway: &gateway,
                    };
                    // One row's failure must not hide the others'.
                    let told = std::panic::AssertUnwindSafe(|| story.tell());
                    if std::panic::catch_unwind(told).is_err() {
                        failed.lock().unwrap().push(story.name());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "of {} rows failed: {failed:#?}",
        rows.len()
    );
}

#[test]
fn killed_around_any_commit_payd_knows_after_the_next_start() {
    tell(COMMITS, "kill", Ends::Killed);
}

#[test]
fn a_commit_that_fails_or_seems_to_ends_payd_and_is_no_answer() {
    tell(COMMITS, "error", Ends::Failed);
}

#[test]
fn killed_on_the_way_to_the_gateway_or_back_payd_charges_once() {
    tell(GATEWAY, "kill", Ends::Killed);
}

#[test]
fn what_fails_on_the_way_to_the_gateway_or_back_is_found_out() {
    tell(GATEWAY, "error", Ends::GoesOn);
}

#[test]
fn a_worker_that_is_held_beyond_its_lease_and_comes_back_changes_nothing() {
    tell(GATEWAY, "pause", Ends::Held);
}

#[test]
fn killed_or_failing_while_it_stops_payd_knows_after_the_next_start() {
    tell(DRAIN, "kill", Ends::Killed);
    tell(DRAIN, "error", Ends::Failed);
}

#[test]
fn killed_or_failing_while_it_makes_its_tables_payd_starts_as_if_for_the_first_time() {
    tell(MIGRATION, "kill", Ends::Killed);
    tell(MIGRATION, "error", Ends::Failed);
}
