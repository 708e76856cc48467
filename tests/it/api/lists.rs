//! `GET /invoices`: pages, filters and the export.

use serde_json::Value;

use super::{INVOICE, NDJSON, assert_fields, assert_problem, make, make_and_pay, make_paid};
use crate::support::daemon::Daemon;
use crate::support::http::Host;

const LINES: (&str, &str) = ("Accept", "application/x-ndjson");

/// Invoices `inv-0`, `inv-1`, … in this order.
fn many(daemon: &Daemon, count: usize) -> Vec<String> {
    let ids: Vec<String> = (0..count).map(|n| format!("inv-{n}")).collect();
    for some in ids.chunks(1000) {
        let lines: Vec<_> = some
            .iter()
            .map(|id| format!(r#"{{"id":"{id}","amount":1}}"#))
            .collect();
        let answer = daemon
            .unix
            .post_with("/invoices", &[NDJSON], &lines.join("\n"));
        assert!(answer.lines().iter().all(|it| it["status"] == 201));
    }
    ids
}

fn ids(invoices: &[Value]) -> Vec<String> {
    invoices
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect()
}

/// All pages of a query, from one `next` to the other. Every page but the last is full.
fn walk(host: &Host, query: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = host
            .get(&format!("/invoices?limit={limit}{query}{after}"))
            .expect(200);
        assert_fields(&page, "invoices next");
        let invoices = page["invoices"].as_array().unwrap();
        all.extend(invoices.iter().cloned());
        match &page["next"] {
            Value::Null => return all,
            Value::String(next) => {
                assert_eq!(invoices.len(), limit);
                after = format!("&after={next}");
            }
            other => panic!("a cursor is text, not {other}"),
        }
    }
}

/// However large, a page is what was asked for: it comes in pieces, of which none is lost or told twice.
#[test]
fn large_pages_are_whole() {
    let daemon = Daemon::start();
    let sizes = [1, 500, 3_000, 32_000, 15_000, 16_300, 31_900];
    let mut made = Vec::new();
    for n in 0..100 {
        let text = format!("{n} {}", "\u{e9}".repeat(sizes[n % sizes.len()] / 2));
        let body = serde_json::json!({"id": format!("inv-{n}"), "amount": 1, "description": text});
        made.push(daemon.unix.post("/invoices", &body.to_string()).expect(201));
    }
    for (_, host) in daemon.hosts() {
        for limit in [1000, 100, 99, 3, 1] {
            assert!(walk(host, "&order=asc", limit) == made, "limit={limit}");
        }
        let lines = host.request("GET", "/invoices?order=asc", &[LINES], b"");
        assert!(lines.unwrap().lines() == made);
        let log = daemon.events();
        assert_eq!(log.len(), 100);
        for limit in [1000, 100, 37] {
            let (mut all, mut after) = (Vec::new(), "0".to_owned());
            while all.len() < log.len() {
                let page = host.get(&format!("/events?limit={limit}&after={after}"));
                let page = page.expect(200);
                let events = page["events"].as_array().unwrap();
                assert_eq!(events.len(), limit.min(log.len() - all.len()));
                all.extend(events.iter().cloned());
                after = page["next"].as_str().unwrap().to_owned();
            }
            assert!(all == log, "limit={limit}");
            assert_eq!(after, "100");
        }
    }
}

#[test]
fn pages_have_every_invoice_once_in_both_orders() {
    let daemon = Daemon::start();
    let oldest_first = many(&daemon, 1203);
    for limit in [1000, 401, 100, 7] {
        let (_, host) = daemon.hosts()[limit % 2];
        let ascending = walk(host, "&order=asc", limit);
        assert_eq!(ids(&ascending), oldest_first, "{limit}");
        for invoice in &ascending {
            assert_fields(invoice, INVOICE);
        }
        let newest_first: Vec<_> = oldest_first.iter().rev().cloned().collect();
        assert_eq!(
            ids(&walk(host, "&order=desc", limit)),
            newest_first,
            "{limit}"
        );
        assert_eq!(
            ids(&walk(host, "", limit)),
            newest_first,
            "{limit}: newest first unless said"
        );
    }
    let page = daemon.unix.get("/invoices").expect(200);
    assert_eq!(
        page["invoices"].as_array().unwrap().len(),
        100,
        "a page has 100 unless said"
    );
    assert_eq!(
        daemon.unix.get("/invoices?limit=1000").expect(200)["invoices"]
            .as_array()
            .unwrap()
            .len(),
        1000
    );
}

#[test]
fn the_last_page_says_so_also_where_it_is_full() {
    let daemon = Daemon::start();
    let empty = daemon.unix.get("/invoices").expect(200);
    assert_eq!(empty, serde_json::json!({"invoices": [], "next": null}));
    many(&daemon, 4);
    for (limit, more) in [(3, true), (4, false), (5, false)] {
        for order in ["asc", "desc"] {
            let page = daemon
                .tcp
                .get(&format!("/invoices?limit={limit}&order={order}"))
                .expect(200);
            assert_eq!(page["next"].is_string(), more, "{limit} {order}");
        }
    }
}

#[test]
fn what_comes_while_one_pages_is_seen_in_ascending_order_and_disturbs_no_other() {
    let daemon = Daemon::start();
    let before = many(&daemon, 10);
    let page = |query: &str| {
        daemon
            .unix
            .get(&format!("/invoices?limit=5{query}"))
            .expect(200)
    };
    let (up, down) = (page("&order=asc"), page("&order=desc"));
    make(&daemon, "late", "sim:approve");
    let next = |page: &Value| format!("&after={}", page["next"].as_str().unwrap());
    let rest = page(&format!("&order=desc{}", next(&down)));
    let newest: Vec<_> = before[..5].iter().rev().cloned().collect();
    assert_eq!(ids(rest["invoices"].as_array().unwrap()), newest);
    let second = page(&format!("&order=asc{}", next(&up)));
    assert_eq!(ids(second["invoices"].as_array().unwrap()), before[5..]);
    let third = page(&format!("&order=asc{}", next(&second)));
    assert_eq!(ids(third["invoices"].as_array().unwrap()), ["late"]);
}

#[test]
fn a_status_lists_its_own() {
    let daemon = super::that_never_looks_up();
    for n in 0..3 {
        make(&daemon, &format!("PENDING-{n}"), "sim:approve");
        make_paid(&daemon, &format!("PAID-{n}"));
        make_and_pay(&daemon, &format!("FAILED-{n}"), "sim:decline");
        daemon.until_invoice(&format!("FAILED-{n}"), "FAILED");
        make_and_pay(&daemon, &format!("PROCESSING-{n}"), "sim:timeout");
        make(&daemon, &format!("CANCELED-{n}"), "sim:approve");
        daemon
            .unix
            .post(&format!("/invoices/CANCELED-{n}/cancel"), "")
            .expect(200);
    }
    for status in ["PENDING", "PROCESSING", "PAID", "FAILED", "CANCELED"] {
        for limit in [1, 2, 100] {
            let all = walk(&daemon.tcp, &format!("&status={status}&order=asc"), limit);
            let want: Vec<_> = (0..3).map(|n| format!("{status}-{n}")).collect();
            assert_eq!(ids(&all), want);
            assert!(all.iter().all(|it| it["status"] == status));
        }
        let accept = [("Accept", "application/x-ndjson")];
        let lines = daemon
            .unix
            .request("GET", &format!("/invoices?status={status}"), &accept, b"")
            .unwrap()
            .lines();
        assert_eq!(lines.len(), 3);
    }
}

#[test]
fn the_export_has_all_that_match_one_a_line() {
    let daemon = Daemon::start();
    let accept = [("Accept", "application/x-ndjson")];
    let export = |host: &Host, query: &str| {
        let answer = host
            .request("GET", &format!("/invoices{query}"), &accept, b"")
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        answer
    };
    assert_eq!(export(&daemon.unix, "").text(), "");
    let oldest_first = many(&daemon, 2100);
    for (_, host) in daemon.hosts() {
        let lines = export(host, "?order=asc").lines();
        assert_eq!(ids(&lines), oldest_first);
        assert_fields(&lines[0], INVOICE);
        let newest_first: Vec<_> = oldest_first.iter().rev().cloned().collect();
        assert_eq!(ids(&export(host, "").lines()), newest_first);
    }
    // It goes on from a cursor like a page does.
    let page = daemon.unix.get("/invoices?order=asc&limit=700").expect(200);
    let rest = export(
        &daemon.tcp,
        &format!("?order=asc&after={}", page["next"].as_str().unwrap()),
    );
    assert_eq!(ids(&rest.lines()), oldest_first[700..]);
}

#[test]
fn a_bad_query_names_what_is_wrong() {
    let daemon = Daemon::start();
    many(&daemon, 3);
    #[rustfmt::skip]
    let rows: &[(&str, &[&str])] = &[
        ("limit=0", &["limit"]),
        ("limit=-1", &["limit"]),
        ("limit=1001", &["limit"]),
        ("limit=99999999999999999999", &["limit"]),
        ("limit=ten", &["limit"]),
        ("limit=1.0", &["limit"]),
        ("limit=1e2", &["limit"]),
        ("limit=%2B1", &["limit"]),
        ("limit=", &["limit"]),
        ("limit", &["limit"]),
        ("limit=1&limit=1", &["limit"]),
        ("status=", &["status"]),
        ("status=paid", &["status"]),
        ("status=OPEN", &["status"]),
        ("status=PAID,FAILED", &["status"]),
        ("status=%ff", &["status"]),
        ("order=up", &["order"]),
        ("order=ASC", &["order"]),
        ("after=x", &["after"]),
        ("after=-1", &["after"]),
        ("after=", &["after"]),
        ("after=now", &["after"]),
        ("after=1.5", &["after"]),
        ("after=99999999999999999999", &["after"]),
        ("after=4", &["after"]),
        ("after=4&order=asc", &["after"]),
        ("offset=1", &["offset"]),
        ("Limit=1", &["Limit"]),
        ("=1", &[""]),
        ("limit=0&status=x&order=y&after=z&page=1", &["limit", "status", "order", "after", "page"]),
    ];
    for (query, fields) in rows {
        for (_, host) in daemon.hosts() {
            let answer = host.get(&format!("/invoices?{query}"));
            assert_eq!(answer.status, 422, "{query}: {}", answer.text());
            assert_problem(&answer, 422, "invalid_request", fields);
            let accept = [("Accept", "application/x-ndjson")];
            let stream = host
                .request("GET", &format!("/invoices?{query}"), &accept, b"")
                .unwrap();
            // A stream has no largest page.
            if !query.starts_with("limit=1001") && !query.starts_with("limit=999") {
                assert_eq!(stream.status, 422, "{query}");
                assert_problem(&stream, 422, "invalid_request", fields);
            }
        }
    }
    assert_eq!(
        daemon.unix.get("/invoices?after=0&order=asc").expect(200)["invoices"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn what_is_accepted_decides_what_is_given() {
    let daemon = Daemon::start();
    many(&daemon, 1);
    for (accept, want) in [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/x-ndjson, */*;q=0.1", "application/x-ndjson"),
        ("text/html", "application/json"),
    ] {
        let answer = daemon
            .unix
            .request("GET", "/invoices", &[("Accept", accept)], b"")
            .unwrap();
        assert_eq!(answer.header("content-type"), Some(want), "{accept}");
    }
}
