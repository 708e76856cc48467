//! `GET /openapi.json`: that what it says of routes, statuses, types, headers and bodies is so. What
//! is real answers is held to it; what it promises is asked for.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    INVOICE, JSON, NDJSON, PAYMENT, make, make_and_pay, make_paid, payments, set_paused,
    that_never_looks_up, until_payment,
};
use crate::support::daemon::Daemon;
use crate::support::http::Answer;

const LINES: (&str, &str) = ("Accept", "application/x-ndjson");
const EVIL: (&str, &str) = ("Host", "evil.example");
const PAGE: (&str, &str) = ("Origin", "http://evil.example");
const KEY: (&str, &str) = ("Idempotency-Key", "k");
const WAIT: (&str, &str) = ("Prefer", "wait=60");

struct Document(Value);

impl Document {
    fn of(daemon: &Daemon) -> Self {
        let answer = daemon.tcp.get("/openapi.json");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        Self(answer.expect(200))
    }

    /// What a reference points to, or the value itself.
    fn resolved<'v>(&'v self, value: &'v Value) -> &'v Value {
        match value["$ref"].as_str() {
            Some(to) => self
                .0
                .pointer(to.strip_prefix('#').unwrap())
                .unwrap_or_else(|| panic!("{to}")),
            None => value,
        }
    }

    fn operation(&self, method: &str, template: &str) -> &Value {
        let operation = &self.0["paths"][template][method.to_lowercase()];
        assert!(
            operation.is_object(),
            "{method} {template} is not in the document"
        );
        operation
    }

    /// What is wrong with a value by a schema of the document, with the components beside it.
    fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": self.0["components"],
            "allOf": [schema],
        });
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&whole)
            .unwrap();
        validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }

    /// Every operation: its method, the template of its path, and what is said of it.
    fn operations(&self) -> Vec<(String, &str, &Value)> {
        let mut all = Vec::new();
        for (template, path) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in path.as_object().unwrap() {
                // What all operations of a path have in common stands beside them.
                if method != "parameters" {
                    all.push((method.to_uppercase(), template.as_str(), operation));
                }
            }
        }
        all
    }

    /// Every (method, template, status, media type) that it promises.
    fn promised(&self) -> BTreeSet<(String, String, String, String)> {
        let mut all = BTreeSet::new();
        for (method, template, operation) in self.operations() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                for media in self.resolved(response)["content"]
                    .as_object()
                    .unwrap()
                    .keys()
                {
                    all.insert((
                        method.clone(),
                        template.to_owned(),
                        status.clone(),
                        media.clone(),
                    ));
                }
            }
        }
        all
    }

    /// Holds an answer to it, and gives the media type that it has.
    fn hold(&self, method: &str, template: &str, answer: &Answer) -> String {
        let what = format!("{method} {template} {}", answer.status);
        let response = &self.operation(method, template)["responses"][answer.status.to_string()];
        assert!(
            response.is_object(),
            "{what} is not in the document: {}",
            answer.text()
        );
        let response = self.resolved(response);
        let declared = response["headers"].as_object();
        for (name, _) in &answer.headers {
            let ours = [
                "location",
                "retry-after",
                "allow",
                "idempotent-replayed",
                "preference-applied",
                "www-authenticate",
                "x-request-id",
            ];
            if ours.contains(&name.to_lowercase().as_str()) {
                let known =
                    declared.is_some_and(|all| all.keys().any(|it| it.eq_ignore_ascii_case(name)));
                assert!(known, "{what}: the header {name} is not in the document");
            }
        }
        for name in ["Location", "Allow"] {
            let promised = declared.is_some_and(|all| all.contains_key(name));
            assert_eq!(answer.header(name).is_some(), promised, "{what}: {name}");
        }
        let given = answer.header("content-type").unwrap();
        let media = given.split(';').next().unwrap();
        let schema = &response["content"][media]["schema"];
        assert!(schema.is_object(), "{what}: {media} is not in the document");
        let values = match media {
            "application/x-ndjson" => answer.lines(),
            "text/plain" => vec![json!(answer.text())],
            _ => vec![answer.json()],
        };
        for value in values {
            let faults = self.faults(schema, &value);
            assert!(faults.is_empty(), "{what}: {faults:?} in {value}");
        }
        media.to_owned()
    }
}

#[test]
fn every_answer_is_as_the_document_says() {
    let daemon = that_never_looks_up();
    let document = Document::of(&daemon);
    make(&daemon, "pending", "sim:approve");
    make(&daemon, "to-pay", "sim:approve");
    make(&daemon, "to-wait", "sim:decline");
    make_paid(&daemon, "paid");
    make(&daemon, "canceled", "sim:approve");
    daemon
        .unix
        .post("/invoices/canceled/cancel", "")
        .expect(200);
    make_and_pay(&daemon, "declined", "sim:decline");
    daemon.until_invoice("declined", "FAILED");
    for id in ["unknown", "held"] {
        make_and_pay(&daemon, id, "sim:timeout");
        until_payment(&daemon, id, "UNKNOWN");
    }
    let payment = |id: &str| {
        format!(
            "/payments/{}",
            payments(&daemon, id)[0]["id"].as_str().unwrap()
        )
    };
    let resolve = |id: &str| format!("{}/resolve", payment(id));
    let full = json!({"id": "full", "amount": 9_007_199_254_740_991_u64, "currency": "EUR", "description": "x",
        "metadata": {"a": "b"}, "payment_method": "sim:approve", "due_at": "2030-01-01T00:00:00+01:00"}).to_string();
    let large = " ".repeat(65 * 1024);
    let no = "";

    // method, path, template, headers, body, status
    type Row<'r> = (
        &'r str,
        String,
        &'r str,
        &'r [(&'r str, &'r str)],
        &'r str,
        u16,
    );
    let s = str::to_owned;
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        ("POST", s("/invoices"), "/invoices", &[JSON], &full, 201),
        ("POST", s("/invoices"), "/invoices", &[JSON], &full, 200),
        ("POST", s("/invoices"), "/invoices", &[JSON, KEY], r#"{"amount":1}"#, 201),
        ("POST", s("/invoices"), "/invoices", &[JSON, KEY], r#"{"amount":1}"#, 201),
        ("POST", s("/invoices"), "/invoices", &[JSON, KEY], r#"{"amount":2}"#, 422),
        ("POST", s("/invoices"), "/invoices", &[NDJSON], "{\"amount\":1}\n{}\nx\n{\"id\":\"full\",\"amount\":1}\n", 200),
        ("POST", s("/invoices"), "/invoices", &[JSON], "{", 400),
        ("POST", s("/invoices"), "/invoices", &[JSON], r#"{"id":"full","amount":1}"#, 409),
        ("POST", s("/invoices"), "/invoices", &[JSON], &large, 413),
        ("POST", s("/invoices"), "/invoices", &[("Content-Type", "text/plain")], "x", 415),
        ("POST", s("/invoices"), "/invoices", &[JSON], "{}", 422),
        ("GET", s("/invoices?limit=2"), "/invoices", &[], no, 200),
        ("GET", s("/invoices?limit=1000"), "/invoices", &[], no, 200),
        ("GET", s("/invoices"), "/invoices", &[LINES], no, 200),
        ("GET", s("/invoices?limit=0"), "/invoices", &[], no, 422),
        ("GET", s("/invoices/paid"), "/invoices/{id}", &[], no, 200),
        ("GET", s("/invoices/none"), "/invoices/{id}", &[], no, 404),
        ("GET", s("/invoices/paid?x"), "/invoices/{id}", &[], no, 422),
        ("POST", s("/invoices/to-pay/pay"), "/invoices/{id}/pay", &[], no, 202),
        ("POST", s("/invoices/to-wait/pay"), "/invoices/{id}/pay", &[JSON, WAIT, ("Idempotency-Key", "w")], "{}", 200),
        ("POST", s("/invoices/to-wait/pay"), "/invoices/{id}/pay", &[JSON, WAIT, ("Idempotency-Key", "w")], "{}", 200),
        ("POST", s("/invoices/held/pay"), "/invoices/{id}/pay", &[("Prefer", "wait=0")], no, 202),
        ("POST", s("/invoices/held/pay"), "/invoices/{id}/pay", &[], no, 200),
        ("POST", s("/invoices/paid/pay"), "/invoices/{id}/pay", &[JSON], "{", 400),
        ("POST", s("/invoices/none/pay"), "/invoices/{id}/pay", &[], no, 404),
        ("POST", s("/invoices/canceled/pay"), "/invoices/{id}/pay", &[], no, 409),
        ("POST", s("/invoices/paid/pay"), "/invoices/{id}/pay", &[JSON], &large, 413),
        ("POST", s("/invoices/paid/pay"), "/invoices/{id}/pay", &[], "x", 415),
        ("POST", s("/invoices/paid/pay"), "/invoices/{id}/pay", &[JSON], "[]", 422),
        ("POST", s("/invoices/pending/cancel"), "/invoices/{id}/cancel", &[JSON], r#"{"reason":"x"}"#, 200),
        ("POST", s("/invoices/held/cancel"), "/invoices/{id}/cancel", &[], no, 202),
        ("POST", s("/invoices/paid/cancel"), "/invoices/{id}/cancel", &[JSON], "{", 400),
        ("POST", s("/invoices/none/cancel"), "/invoices/{id}/cancel", &[], no, 404),
        ("POST", s("/invoices/paid/cancel"), "/invoices/{id}/cancel", &[], no, 409),
        ("POST", s("/invoices/paid/cancel"), "/invoices/{id}/cancel", &[JSON], &large, 413),
        ("POST", s("/invoices/paid/cancel"), "/invoices/{id}/cancel", &[], "x", 415),
        ("POST", s("/invoices/paid/cancel"), "/invoices/{id}/cancel", &[JSON], "[]", 422),
        ("GET", s("/invoices/declined/payments"), "/invoices/{id}/payments", &[], no, 200),
        ("GET", s("/invoices/canceled/payments"), "/invoices/{id}/payments", &[], no, 200),
        ("GET", s("/invoices/none/payments"), "/invoices/{id}/payments", &[], no, 404),
        ("GET", s("/invoices/paid/payments?x"), "/invoices/{id}/payments", &[], no, 422),
        ("GET", payment("paid"), "/payments/{id}", &[], no, 200),
        ("GET", payment("declined"), "/payments/{id}", &[], no, 200),
        ("GET", payment("unknown"), "/payments/{id}", &[], no, 200),
        ("GET", s("/payments/none"), "/payments/{id}", &[], no, 404),
        ("GET", payment("paid") + "?x", "/payments/{id}", &[], no, 422),
        ("POST", resolve("unknown"), "/payments/{id}/resolve", &[JSON], r#"{"as":"failed","reason":"x"}"#, 200),
        ("POST", resolve("unknown"), "/payments/{id}/resolve", &[JSON], "", 400),
        ("POST", s("/payments/none/resolve"), "/payments/{id}/resolve", &[JSON], r#"{"as":"failed","reason":"x"}"#, 404),
        ("POST", resolve("paid"), "/payments/{id}/resolve", &[JSON], r#"{"as":"failed","reason":"x"}"#, 409),
        ("POST", resolve("paid"), "/payments/{id}/resolve", &[JSON], &large, 413),
        ("POST", resolve("paid"), "/payments/{id}/resolve", &[], "x", 415),
        ("POST", resolve("paid"), "/payments/{id}/resolve", &[JSON], "{}", 422),
        ("GET", s("/events?limit=1000"), "/events", &[], no, 200),
        ("GET", s("/events?limit=5"), "/events", &[LINES], no, 200),
        ("GET", s("/events?after=99999"), "/events", &[], no, 422),
        ("GET", s("/healthz"), "/healthz", &[], no, 200),
        ("GET", s("/readyz"), "/readyz", &[], no, 200),
        ("GET", s("/metrics"), "/metrics", &[], no, 200),
        ("GET", s("/openapi.json"), "/openapi.json", &[], no, 200),
        ("GET", s("/admin/status"), "/admin/status", &[], no, 200),
        ("GET", s("/admin/status?x"), "/admin/status", &[], no, 422),
        ("POST", s("/admin/pause"), "/admin/pause", &[], no, 200),
        ("POST", s("/admin/resume"), "/admin/resume", &[JSON], "{}", 200),
    ];
    let mut kept = BTreeSet::new();
    let mut keep = |method: &str, template: &str, answer: &Answer| {
        let media = document.hold(method, template, answer);
        kept.insert((
            method.to_owned(),
            template.to_owned(),
            answer.status.to_string(),
            media,
        ));
    };
    for (method, path, template, headers, body, status) in &rows {
        let answer = daemon
            .unix
            .request(method, path, headers, body.as_bytes())
            .unwrap();
        assert_eq!(answer.status, *status, "{method} {path}: {}", answer.text());
        keep(method, template, &answer);
        // What is taken is what the document says is taken; what it says is refused is refused.
        let request = &document.operation(method, template)["requestBody"];
        if matches!(status, 200..=299 | 422)
            && headers.contains(&JSON)
            && !body.is_empty()
            && *status != 422
        {
            let schema = &document.resolved(request)["content"]["application/json"]["schema"];
            let value = serde_json::from_str(body).unwrap();
            assert_eq!(
                document.faults(schema, &value),
                [] as [String; 0],
                "{method} {path} {body}"
            );
        }
    }
    // Where a body may be too large, it may also stop in the middle.
    let halves = rows.iter().filter(|row| row.5 == 413);
    let stalled = std::thread::scope(|scope| {
        let asked: Vec<_> = halves
            .map(|(method, path, template, ..)| {
                let half = [JSON, ("Content-Length", "9")];
                let host = &daemon.unix;
                let asked = scope.spawn(move || host.request(method, path, &half, b"{").unwrap());
                (*method, *template, asked)
            })
            .collect();
        let answers = asked.into_iter();
        let answers = answers.map(|(method, template, it)| (method, template, it.join().unwrap()));
        answers.collect::<Vec<_>>()
    });
    for (method, template, answer) in &stalled {
        assert_eq!(answer.status, 408, "{method} {template}");
        keep(method, template, answer);
    }
    // What any route answers to a web page, on another host, and by another method.
    for (method, template, _) in document.operations() {
        if !matches!(template, "/healthz" | "/readyz") {
            let nobody = daemon.tcp.showing(None);
            let answer = nobody.request(&method, template, &[], b"").unwrap();
            assert_eq!(answer.status, 401, "{method} {template}");
            keep(&method, template, &answer);
        }
        for (header, status) in [(PAGE, 403), (EVIL, 421)] {
            let answer = daemon
                .tcp
                .request(&method, template, &[header], b"")
                .unwrap();
            assert_eq!(answer.status, status, "{method} {template}");
            keep(&method, template, &answer);
        }
        let answer = daemon.unix.request("DELETE", template, &[], b"").unwrap();
        keep(&method, template, &answer);
    }
    let mut sse = daemon
        .tcp
        .open("GET", "/events", &[("Accept", "text/event-stream")], b"")
        .unwrap();
    assert_eq!(sse.header("content-type"), Some("text/event-stream"));
    let event = sse.sse().unwrap().1;
    assert!(
        document
            .faults(&json!({"$ref": "#/components/schemas/Event"}), &event)
            .is_empty()
    );
    kept.insert((
        "GET".to_owned(),
        "/events".to_owned(),
        "200".to_owned(),
        "text/event-stream".to_owned(),
    ));

    // All that it promises is kept, but for what only a sick payd answers, and bodies of pause and
    // resume, which are read as all others.
    let left: Vec<_> = document
        .promised()
        .into_iter()
        .filter(|it| !kept.contains(it) && !matches!(it.2.as_str(), "429" | "500" | "503"))
        .filter(|it| !it.1.starts_with("/admin/"))
        .collect();
    assert!(left.is_empty(), "promised and never seen: {left:#?}");
}

#[test]
fn payd_prints_what_it_answers_with() {
    let daemon = Daemon::start();
    let printed = daemon.payd(&["openapi"]).stdout;
    let printed: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(printed, Document::of(&daemon).0);
    assert!(printed["openapi"].as_str().unwrap().starts_with("3.1."));
}

#[test]
fn what_is_refused_is_refused_by_the_document_too() {
    let daemon = Daemon::start();
    let document = Document::of(&daemon);
    make(&daemon, "inv-1", "sim:approve");
    set_paused(&daemon, true);
    make_and_pay(&daemon, "inv-2", "sim:approve");
    let payment = payments(&daemon, "inv-2")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let resolve = format!("/payments/{payment}/resolve");
    // path, template, body
    #[rustfmt::skip]
    let rows = [
        ("/invoices", "/invoices", r#"{}"#),
        ("/invoices", "/invoices", r#"[]"#),
        ("/invoices", "/invoices", r#"{"amount":0}"#),
        ("/invoices", "/invoices", r#"{"amount":-1}"#),
        ("/invoices", "/invoices", r#"{"amount":"10"}"#),
        ("/invoices", "/invoices", r#"{"amount":9007199254740992}"#),
        ("/invoices", "/invoices", r#"{"amount":null}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"color":"red"}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"id":""}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"id":"a b"}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"id":".."}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"id":"."}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"currency":"usd"}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"metadata":{"a":1}}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"metadata":{"":"x"}}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"payment_method":""}"#),
        ("/invoices", "/invoices", r#"{"amount":1,"due_at":"soon"}"#),
        ("/invoices/inv-1/pay", "/invoices/{id}/pay", r#"{"amount":1}"#),
        ("/invoices/inv-1/pay", "/invoices/{id}/pay", r#"{"payment_method":7}"#),
        ("/invoices/inv-1/cancel", "/invoices/{id}/cancel", r#"{"reason":7}"#),
        ("/invoices/inv-1/cancel", "/invoices/{id}/cancel", r#"[]"#),
        (&resolve, "/payments/{id}/resolve", r#"{"as":"failed"}"#),
        (&resolve, "/payments/{id}/resolve", r#"{"as":"failed","reason":""}"#),
        (&resolve, "/payments/{id}/resolve", r#"{"as":"canceled","reason":"x"}"#),
        ("/admin/resume", "/admin/resume", r#"{"now":true}"#),
    ];
    for (path, template, body) in rows {
        assert_eq!(daemon.unix.post(path, body).status, 422, "{path} {body}");
        let request = document.resolved(&document.operation("POST", template)["requestBody"]);
        let schema = &request["content"]["application/json"]["schema"];
        let value = serde_json::from_str(body).unwrap();
        assert!(
            !document.faults(schema, &value).is_empty(),
            "{template} takes {body}"
        );
    }
}

#[test]
fn the_document_has_every_field_and_every_route() {
    let daemon = Daemon::start();
    let document = Document::of(&daemon);
    for (name, fields) in [("Invoice", INVOICE), ("Payment", PAYMENT)] {
        let schema = &document.0["components"]["schemas"][name];
        let want: BTreeSet<&str> = fields.split_whitespace().collect();
        let properties: BTreeSet<&str> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let required: BTreeSet<&str> = schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap())
            .collect();
        assert_eq!((properties, required), (want.clone(), want), "{name}");
    }
    let mut told = BTreeSet::new();
    for (method, template, operation) in document.operations() {
        told.insert(format!("{method} {template}"));
        assert!(operation["operationId"].is_string(), "{method} {template}");
        // There is such a route: whatever it answers, it is not that there is none. Nor is there such a
        // token.
        let template = if template.contains("{name}") {
            "/admin/tokens"
        } else {
            template
        };
        let answer = daemon.unix.request(&method, template, &[], b"").unwrap();
        assert!(
            answer.status != 405
                && !String::from_utf8_lossy(&answer.body).contains("\"code\":\"not_found\""),
            "{method} {template}"
        );
    }
    let routes: BTreeSet<String> = super::problems::ROUTES
        .iter()
        .flat_map(|(path, methods)| {
            let template = path.replace("inv-1", "{id}").replace("pay_1", "{id}");
            let template = template.replace("shop", "{name}");
            let methods = methods.split(' ').filter(|it| *it != "HEAD");
            methods
                .map(move |method| format!("{method} {template}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(told, routes);
}
