//! Bearer tokens on TCP: what each is good for, until when, and what is said to who has none.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{admin_token, make_token};
use crate::support::daemon::{Daemon, until};

/// Far more than it takes, and less than the time between two looks at whether a token is good.
const AT_ONCE: Duration = Duration::from_secs(8);

const LINES: (&str, &str) = ("Accept", "application/x-ndjson");

/// Every route, and the scope that it asks for. The contract's word, not the code's.
const ROUTES: &[(&str, &str, &str)] = &[
    ("POST", "/invoices", "create"),
    ("GET", "/invoices", "read"),
    ("GET", "/invoices/{id}", "read"),
    ("POST", "/invoices/{id}/pay", "pay"),
    ("POST", "/invoices/{id}/cancel", "pay"),
    ("GET", "/invoices/{id}/payments", "read"),
    ("GET", "/payments/{id}", "read"),
    ("POST", "/payments/{id}/resolve", "admin"),
    ("GET", "/events", "read"),
    ("GET", "/healthz", ""),
    ("GET", "/readyz", ""),
    ("GET", "/metrics", "metrics"),
    ("GET", "/openapi.json", "read"),
    ("GET", "/admin/status", "admin"),
    ("GET", "/admin/doctor", "admin"),
    ("GET", "/admin/verify", "admin"),
    ("POST", "/admin/backup", "admin"),
    ("POST", "/admin/pause", "admin"),
    ("POST", "/admin/resume", "admin"),
    ("GET", "/admin/tokens", "admin"),
    ("POST", "/admin/tokens", "admin"),
    ("POST", "/admin/tokens/{name}/revoke", "admin"),
];

const SCOPES: [&str; 5] = ["read", "create", "pay", "admin", "metrics"];

#[test]
fn every_route_asks_for_its_scope_and_takes_no_other() {
    let daemon = Daemon::start();
    let document = daemon.unix.get("/openapi.json").expect(200);
    let told: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let verbs = item
                .as_object()
                .unwrap()
                .keys()
                .filter(|it| *it != "parameters");
            verbs.map(move |verb| (verb.to_uppercase(), path.clone()))
        })
        .collect();
    let here = ROUTES
        .iter()
        .map(|(verb, path, _)| ((*verb).to_owned(), (*path).to_owned()));
    assert_eq!(
        told,
        here.collect(),
        "a route is missing in this test's table"
    );

    let tokens = SCOPES.map(|scope| {
        (
            scope,
            make_token(&daemon, &format!("only-{scope}"), &[scope]).1,
        )
    });
    for (verb, path, asks) in ROUTES {
        let path = path.replace("{id}", "none").replace("{name}", "none");
        for (scope, token) in &tokens {
            let host = daemon.tcp.showing(Some(token));
            // The query is refused by what is behind the door, wherever it is let in.
            let answer = host.request(verb, &path, &[], b"").unwrap();
            let may = asks.is_empty() || scope == asks || *scope == "admin";
            if may {
                assert!(
                    !matches!(answer.status, 401 | 403),
                    "{verb} {path} with {scope}"
                );
                continue;
            }
            let said = answer.problem(403, "forbidden");
            assert!(said["detail"].as_str().unwrap().contains(asks), "{said}");
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.contains("insufficient_scope"), "{challenge}");
            assert!(
                challenge.contains(&format!("scope=\"{asks}\"")),
                "{challenge}"
            );
        }
        let answer = daemon
            .tcp
            .showing(None)
            .request(verb, &path, &[], b"")
            .unwrap();
        assert_eq!(
            answer.status == 401,
            !asks.is_empty(),
            "{verb} {path} without a token"
        );
        let answer = daemon.unix.request(verb, &path, &[], b"").unwrap();
        assert!(
            !matches!(answer.status, 401 | 403),
            "{verb} {path} on the socket"
        );
    }
    assert!(daemon.events().is_empty(), "nothing has happened");
}

#[test]
fn several_scopes_add_up() {
    let daemon = Daemon::start();
    let (_, token) = make_token(&daemon, "shop", &["create", "pay"]);
    let shop = daemon.tcp.showing(Some(&token));
    shop.post("/invoices", r#"{"id":"inv-1","amount":1000}"#)
        .expect(201);
    shop.post("/invoices/inv-1/pay", "").expect(202);
    shop.get("/invoices/inv-1").problem(403, "forbidden");
    daemon.until_invoice("inv-1", "PAID");
    let actors: Vec<_> = daemon
        .events()
        .iter()
        .map(|it| it["actor"].clone())
        .collect();
    assert_eq!(actors, ["shop", "shop", "payd"], "events name the token");
    daemon.until_logged("PaymentRequested");
    let line = daemon
        .log()
        .lines()
        .find(|line| line.contains("PaymentRequested"))
        .unwrap()
        .to_owned();
    assert!(line.contains("shop"), "and so does the log: {line}");
}

#[test]
fn whoever_has_no_good_token_is_told_what_to_do() {
    let daemon = Daemon::start();
    let good = admin_token(&daemon);
    let mut other = Daemon::start();
    let foreign = admin_token(&other);
    other.stop();
    let cut = &good[..good.len() - 1];
    for (header, error, says) in [
        (None, "", "needs a token"),
        (Some(format!("Bearer {cut}")), "invalid_token", "cut off"),
        (Some("Bearer".to_owned()), "invalid_token", "cut off"),
        (Some(format!("Basic {good}")), "invalid_token", "cut off"),
        (Some(good.clone()), "invalid_token", "cut off"),
        (
            Some(format!("Bearer {foreign}")),
            "invalid_token",
            "does not know",
        ),
    ] {
        let headers: Vec<_> = header
            .iter()
            .map(|it| ("Authorization", it.as_str()))
            .collect();
        let nobody = daemon.tcp.showing(None);
        let answer = nobody.request("GET", "/invoices", &headers, b"").unwrap();
        let said = answer.problem(401, "unauthenticated");
        assert!(
            said["detail"].as_str().unwrap().contains(says),
            "{header:?}: {said}"
        );
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer "), "{challenge}");
        assert_eq!(
            challenge.contains("error="),
            !error.is_empty(),
            "{challenge}"
        );
        assert!(challenge.contains(error), "{challenge}");
    }
    let twice = [
        ("Authorization", format!("Bearer {good}")),
        ("Authorization", format!("Bearer {good}")),
    ];
    let twice = [
        (twice[0].0, twice[0].1.as_str()),
        (twice[1].0, twice[1].1.as_str()),
    ];
    let answer = daemon.tcp.request("GET", "/invoices", &twice, b"").unwrap();
    answer.problem(401, "unauthenticated");
    daemon.tcp.get("/invoices").expect(200);
    // On the socket nobody looks at it.
    let bad = [("Authorization", "Bearer nonsense")];
    daemon
        .unix
        .request("GET", "/invoices", &bad, b"")
        .unwrap()
        .expect(200);
}

#[test]
fn a_token_is_shown_once_listed_without_it_and_revoked_for_good() {
    let mut daemon = Daemon::start();
    let (made, token) = make_token(&daemon, "shop", &["read"]);
    let id = made["id"].as_str().unwrap();
    assert!(
        token.starts_with(&format!("payd_{id}_")),
        "the id is in the token"
    );
    let uid = format!("uid:{}", rustix::process::getuid().as_raw());
    assert_eq!(made["created_by"], uid.as_str());
    let shop = daemon.tcp.showing(Some(&token));
    shop.get("/invoices").expect(200);
    let list = || daemon.unix.get("/admin/tokens").expect(200)["tokens"].clone();
    let names: Vec<_> = list()
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].clone())
        .collect();
    assert_eq!(names, ["admin", "shop"]);
    assert!(!list().to_string().contains(&token[14..]));

    // The name is taken while the token is good.
    let again = json!({"name": "shop", "scopes": ["read"]}).to_string();
    let refused = daemon
        .unix
        .post("/admin/tokens", &again)
        .problem(422, "invalid_request");
    assert_eq!(refused["errors"][0]["field"], "name");

    let revoked = daemon.tcp.post("/admin/tokens/shop/revoke", "").expect(200);
    assert_eq!(revoked["revoked_by"], "admin");
    let said = shop.get("/invoices").problem(401, "unauthenticated");
    assert!(
        said["detail"].as_str().unwrap().contains("revoked"),
        "{said}"
    );
    let once_more = daemon
        .unix
        .post(&format!("/admin/tokens/{id}/revoke"), "")
        .expect(200);
    assert_eq!(once_more, revoked, "once more is the same");
    daemon
        .unix
        .post("/admin/tokens/none/revoke", "")
        .problem(404, "not_found");
    let (_, next) = make_token(&daemon, "shop", &["read"]);
    daemon.kill();
    daemon.start_again();
    daemon
        .tcp
        .showing(Some(&token))
        .get("/invoices")
        .problem(401, "unauthenticated");
    daemon.tcp.showing(Some(&next)).get("/invoices").expect(200);
    daemon.tcp.get("/invoices").expect(200);
}

#[test]
fn a_token_expires_by_itself() {
    let daemon = Daemon::start();
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let body = json!({"name": "guest", "scopes": ["read"], "expires_at": soon.to_string()});
    let made = daemon
        .unix
        .post("/admin/tokens", &body.to_string())
        .expect(201);
    let guest = daemon.tcp.showing(made["token"].as_str());
    guest.get("/invoices").expect(200);
    until("it has expired", || guest.get("/invoices").status == 401);
    let said = guest.get("/invoices").problem(401, "unauthenticated");
    assert!(
        said["detail"].as_str().unwrap().contains("expired"),
        "{said}"
    );
    assert!(jiff::Timestamp::now() >= soon);
    // In the past it would never have been good.
    let refused = daemon
        .unix
        .post("/admin/tokens", &body.to_string())
        .problem(422, "invalid_request");
    assert_eq!(refused["errors"][0]["field"], "expires_at");
}

#[test]
fn no_token_takes_the_name_of_another_actor() {
    let daemon = Daemon::start();
    for name in ["payd", "tcp", "nobody", "admin", "uid:0", "", "a b", "ä"] {
        let body = json!({"name": name, "scopes": ["read"]}).to_string();
        let refused = daemon
            .unix
            .post("/admin/tokens", &body)
            .problem(422, "invalid_request");
        assert_eq!(refused["errors"][0]["field"], "name", "{name}");
    }
    let (made, _) = {
        let made = daemon
            .unix
            .post("/admin/tokens", r#"{"scopes":["read"]}"#)
            .expect(201);
        (made.clone(), made["token"].clone())
    };
    let name = format!("token-{}", made["id"].as_str().unwrap());
    assert_eq!(made["name"], name, "one is made up where none is given");
}

#[test]
fn a_token_made_under_a_key_is_made_once_and_kept_by_nobody() {
    let mut daemon = Daemon::start();
    let key = [("Idempotency-Key", "make-shop")];
    let body = r#"{"name":"shop","scopes":["read"]}"#;
    let first = daemon
        .unix
        .post_with("/admin/tokens", &key, body)
        .expect(201);
    assert!(first["token"].is_string());
    daemon.kill();
    daemon.start_again();
    let second = daemon.unix.post_with("/admin/tokens", &key, body);
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    let mut second = second.expect(201);
    assert!(second["token"].is_null(), "payd does not have it any more");
    second["token"] = first["token"].clone();
    assert_eq!(second, first);
    let other = r#"{"name":"shop-2","scopes":["read"]}"#;
    let reused = daemon.unix.post_with("/admin/tokens", &key, other);
    reused.problem(422, "idempotency_key_reused");
}

#[test]
fn a_stream_ends_when_its_token_does() {
    let daemon = Daemon::start();
    let (_, token) = make_token(&daemon, "listener", &["read"]);
    let mut stream = daemon
        .tcp
        .showing(Some(&token))
        .open("GET", "/events", &[LINES], b"")
        .unwrap();
    daemon
        .unix
        .post("/invoices", r#"{"id":"seen","amount":1}"#)
        .expect(201);
    assert_eq!(stream.json().unwrap()["subject"], "seen");
    daemon
        .unix
        .post("/admin/tokens/listener/revoke", "")
        .expect(200);
    daemon
        .unix
        .post("/invoices", r#"{"id":"unseen","amount":1}"#)
        .expect(201);
    assert_eq!(
        stream.json(),
        None,
        "and nothing of what came after is on it"
    );
}

#[test]
fn an_idle_stream_ends_at_once_when_its_token_is_revoked_or_expires() {
    let daemon = Daemon::start();
    make_token(&daemon, "other", &["read"]);
    let open = |token: &str| {
        let host = daemon.tcp.showing(Some(token));
        host.open("GET", "/events", &[LINES], b"").unwrap()
    };
    let (_, token) = make_token(&daemon, "listener", &["read"]);
    let mut stream = open(&token);
    daemon
        .unix
        .post("/admin/tokens/other/revoke", "")
        .expect(200);
    daemon
        .unix
        .post("/invoices", r#"{"id":"seen","amount":1}"#)
        .expect(201);
    assert_eq!(
        stream.json().unwrap()["subject"],
        "seen",
        "another's is another's"
    );
    let revoked = Instant::now();
    daemon
        .unix
        .post("/admin/tokens/listener/revoke", "")
        .expect(200);
    // Its heartbeat would be an empty line.
    assert_eq!(
        stream.line().unwrap(),
        None,
        "it ends before its next heartbeat"
    );

    assert!(revoked.elapsed() < AT_ONCE, "{:?}", revoked.elapsed());

    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let body = json!({"name": "guest", "scopes": ["read"], "expires_at": soon.to_string()});
    let made = daemon
        .unix
        .post("/admin/tokens", &body.to_string())
        .expect(201);
    let mut stream = open(made["token"].as_str().unwrap());
    assert_eq!(stream.json().unwrap()["subject"], "seen");
    assert_eq!(
        stream.line().unwrap(),
        None,
        "it ends before its next heartbeat"
    );
    let late = jiff::Timestamp::now().duration_since(soon);
    assert!(!late.is_negative(), "{late}");
    assert!(late.unsigned_abs() < AT_ONCE, "{late}");
}

#[test]
fn without_tokens_everyone_is_let_in_and_told_so_loudly() {
    for (setting, flag) in [
        (Some(("PAYD_SERVER__AUTH", "none")), "server.auth"),
        (None, ""),
    ] {
        let daemon = match setting {
            Some(setting) => Daemon::with(&[setting]),
            None => Daemon::start(),
        };
        let nobody = daemon.tcp.showing(None);
        let open = setting.is_some();
        assert_eq!(nobody.get("/invoices").status == 200, open, "{flag}");
        assert_eq!(
            daemon.banner.contains("NO TOKEN"),
            open,
            "{}",
            daemon.banner
        );
        if open {
            daemon.until_logged("NO TOKEN");
        } else {
            assert!(!daemon.log().contains("NO TOKEN"));
        }
        if open {
            nobody.post("/invoices", r#"{"amount":1}"#).expect(201);
            assert_eq!(daemon.events()[0]["actor"], "tcp");
        }
    }
}
