//! A charge that fails at each place on its way: before the first byte it was not sent, from then on
//! its outcome is unknown. Only with the feature `failpoints`.

use serde_json::json;

use super::{REQUESTED, SUCCEEDED, UNKNOWN, no_charge_was_repeated, story};
use crate::support::stub::{Stub, answer};

#[test]
fn a_charge_that_fails_on_its_way_is_not_sent_or_unknown() {
    let not_sent: &[&str] = &[REQUESTED, REQUESTED, SUCCEEDED];
    let never_received: &[&str] = &[REQUESTED, UNKNOWN, REQUESTED, SUCCEEDED];
    let charged: &[&str] = &[REQUESTED, UNKNOWN, SUCCEEDED];
    let rows = [
        ("gateway.connected", not_sent),
        ("gateway.mid_write", never_received),
        ("gateway.written", charged),
        ("gateway.mid_answer", charged),
        ("gateway.answered", charged),
        ("lookup.answered", charged),
    ];
    for (point, want) in rows {
        let loses_its_answer = point == "lookup.answered";
        let stub = Stub::start(move |call| match call.method.as_str() {
            "POST" if loses_its_answer => answer(500, &json!({})),
            "GET" if call.charge.is_null() => answer(404, &json!({})),
            _ => answer(200, &call.echo("succeeded")),
        });
        let error = format!("{point}=error");
        let daemon = stub.daemon(&[("PAYD_FAILPOINTS", &error)]);
        super::pay(&daemon, "inv-1");
        daemon.until_invoice("inv-1", "PAID");
        assert_eq!(story(&daemon, "inv-1"), want, "{point}");
        assert_eq!(stub.count("POST", "inv-1"), 1, "{point}");
        if loses_its_answer {
            assert!(stub.count("GET", "inv-1") >= 2, "{point}");
        }
        no_charge_was_repeated(&daemon, &stub, "inv-1");
    }
}
