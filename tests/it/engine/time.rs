//! A machine that was rebooted with another time on its wall clock: then payd has only that clock to ask, and
//! what it has stored. Within one boot `storage/time.rs` shows it on the real payd. And time in which nobody asks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use payd::application::request::{Action, Caller, Outcome};
use payd::application::spawn;
use payd::domain::Finding;

use super::bench::{Bench, approved, declined, invoice, key, unknown};

const HOUR: i64 = 3600;
const TEN_YEARS: i64 = 10 * 365 * 24 * HOUR;

impl Bench {
    fn times_never_go_backwards(&self) {
        let log = self.log();
        let times: Vec<_> = log
            .iter()
            .map(|(_, it)| it["time"].as_str().unwrap())
            .collect();
        assert!(times.is_sorted(), "{times:?}");
    }
}

#[test]
fn a_retry_is_neither_lost_nor_doubled_whatever_the_clock_says_after_a_boot() {
    let journeys: [&[i64]; 6] = [
        &[HOUR],
        &[-HOUR],
        &[TEN_YEARS],
        &[-TEN_YEARS],
        &[TEN_YEARS, -TEN_YEARS, 0],
        &[-TEN_YEARS, TEN_YEARS, -HOUR, HOUR],
    ];
    for journey in journeys {
        let mut bench = Bench::new();
        bench.create("inv-1").unwrap();
        bench.pay("inv-1").unwrap();
        let first = bench.claim_due().remove(0);
        bench.settle(&first, declined(true)).unwrap();
        assert!(bench.claim_due().is_empty(), "it is not due yet");
        let mut sent = Vec::new();
        for off_seconds in journey {
            bench.reboot(*off_seconds);
            sent.extend(bench.claim_due());
        }
        // The longest that it had to wait, wherever the clock stands now.
        bench.pass(Duration::from_secs(2));
        sent.extend(bench.claim_due());
        assert_eq!(sent.len(), 1, "{journey:?}");
        assert_eq!(sent[0].attempt, 2, "{journey:?}");
        // What was sent before a boot is looked up, and not sent again by itself.
        bench.settle(&sent[0], approved()).unwrap();
        assert_eq!(bench.state("inv-1").0, "PAID", "{journey:?}");
        bench.times_never_go_backwards();
        bench.verify();
    }
}

#[test]
fn an_open_question_is_asked_again_and_an_answer_is_kept_whatever_the_clock_says_after_a_boot() {
    for off_seconds in [HOUR, -HOUR, TEN_YEARS, -TEN_YEARS] {
        let mut bench = Bench::new();
        bench.create("inv-1").unwrap();
        bench.pay("inv-1").unwrap();
        let sent = bench.claim_due().remove(0);
        bench.settle(&sent, unknown()).unwrap();
        let create = || {
            (
                Action::Create(vec![invoice("inv-2", 5).into()]),
                key("a-key", 1),
            )
        };
        assert!(matches!(
            bench.batch(vec![create()])[0],
            Ok(Outcome::Fresh(..))
        ));

        bench.reboot(off_seconds);
        let lived = Duration::from_secs(3600);
        bench.submit(Action::ExpireAnswers { lived }).unwrap();
        let again = bench.batch(vec![create()]);
        assert!(
            matches!(again[0], Ok(Outcome::Replayed(_))),
            "{off_seconds}"
        );
        // 15 minutes is the longest that two lookups are apart.
        bench.pass(Duration::from_secs(900));
        let asked = bench.claim_lookups().remove(0);
        // Too soon after the start to be final: the time before it is not trusted.
        assert!(bench.claim_due().is_empty(), "{off_seconds}");
        bench.found(&asked, Finding::NotFound).unwrap();
        bench.times_never_go_backwards();
        bench.verify();
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_makes_it_faster_is_let_go_once_each_time_that_nobody_has_asked_for_a_while() {
    let mut bench = Bench::new();
    let (engine, run) = spawn(bench.engine.take().unwrap());
    let run = tokio::spawn(run.run());
    let pass = |tenths: u64| tokio::time::sleep(Duration::from_millis(100 * tenths));
    let create = async |id| {
        let action = Action::Create(vec![invoice(id, 5).into()]);
        engine.submit(Caller::payd(), action, None).await.unwrap();
    };
    let rests = || bench.rests.load(Ordering::Relaxed);
    pass(99).await;
    assert_eq!(rests(), 0);
    pass(2).await;
    assert_eq!(rests(), 1, "after a start");
    create("inv-1").await;
    for id in ["inv-2", "inv-3", "inv-4"] {
        pass(99).await;
        create(id).await;
    }
    pass(99).await;
    assert_eq!(rests(), 1, "while somebody asks");
    // What comes by itself keeps nobody awake, and wakes nobody.
    engine.submit_own(Action::Beat).await.unwrap();
    pass(2).await;
    assert_eq!(rests(), 2);
    for lived in [1, 2, 3].map(Duration::from_secs) {
        engine.submit_own(Action::Beat).await.unwrap();
        let expiry = Action::ExpireAnswers { lived };
        engine.submit_own(expiry).await.unwrap();
        pass(600).await;
    }
    assert_eq!(rests(), 2, "once is enough");
    create("inv-5").await;
    pass(101).await;
    assert_eq!(rests(), 3);
    drop(engine);
    run.await.unwrap().unwrap();
}
