//! The table of routes: the one place that says what there is, and who may. `openapi.json` is held
//! to it by a test.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_LENGTH, HeaderValue};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use http_body::Body as _;

use super::auth;
use super::call::Call;
use super::problem::Reject;
use super::{admin, doctor, events, health, invoices, payments, tokens, upkeep};
use crate::api::{Code, Scope};

/// The methods that routes take. HEAD comes with GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
}

impl Verb {
    fn takes(self, method: &Method) -> bool {
        match self {
            Self::Get => matches!(*method, Method::GET | Method::HEAD),
            Self::Post => *method == Method::POST,
        }
    }

    /// As Allow has it.
    const fn methods(self) -> &'static str {
        match self {
            Self::Get => "GET,HEAD",
            Self::Post => "POST",
        }
    }
}

/// Who may use a route over TCP. Who may open the Unix socket may use them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anyone, always: the health checks.
    Open,
    /// Whoever has a token of this scope, or of the scope `admin`.
    Token(Scope),
}

// As the table has them.
const OPEN: Access = Access::Open;
const READ: Access = Access::Token(Scope::Read);
const CREATE: Access = Access::Token(Scope::Create);
const PAY: Access = Access::Token(Scope::Pay);
const METRICS: Access = Access::Token(Scope::Metrics);
const ADMIN: Access = Access::Token(Scope::Admin);

/// An answer on its way.
pub(super) type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A route.
pub(super) struct Route {
    pub(super) verb: Verb,
    /// Its name in all that is measured by route, where the path would be a series for every invoice.
    pub(super) path: &'static str,
    pattern: Pattern,
    pub(super) access: Access,
    pub(super) lines: Lines,
    handler: fn(Call) -> Answering,
}

/// Whether a handler writes lines to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// It may, by itself or by what it calls while it runs or starts for later.
    Some,
    /// It never does.
    None,
}

// As the table has them.
const TELLS: Lines = Lines::Some;
const QUIET: Lines = Lines::None;

macro_rules! routes {
    ($($verb:ident $path:literal $access:ident $lines:ident $handler:path;)*) => {
        /// All of them.
        pub(super) const ROUTES: &[Route] = &[$(Route {
            verb: Verb::$verb,
            path: $path,
            pattern: Pattern::of($path),
            access: $access,
            lines: $lines,
            handler: |call| Box::pin(async move { $handler(call).await.into_response() }),
        },)*];
    };
}

routes! {
    Post "/invoices"                    CREATE  QUIET invoices::create;
    Get  "/invoices"                    READ    TELLS invoices::list;
    Get  "/invoices/{id}"               READ    QUIET invoices::show;
    Post "/invoices/{id}/pay"           PAY     QUIET payments::pay;
    Post "/invoices/{id}/cancel"        PAY     QUIET invoices::cancel;
    Get  "/invoices/{id}/payments"      READ    QUIET payments::list;
    Get  "/payments/{id}"               READ    QUIET payments::show;
    // An operator's word moves what payd believes of money.
    Post "/payments/{id}/resolve"       ADMIN   QUIET payments::resolve;
    Get  "/events"                      READ    TELLS events::list;
    Get  "/healthz"                     OPEN    QUIET health::healthz;
    Get  "/readyz"                      OPEN    QUIET health::readyz;
    Get  "/metrics"                     METRICS TELLS health::metrics;
    Get  "/openapi.json"                READ    QUIET health::openapi;
    Get  "/admin/status"                ADMIN   TELLS admin::status;
    Post "/admin/backup"                ADMIN   TELLS upkeep::backup;
    Get  "/admin/verify"                ADMIN   TELLS upkeep::verify;
    Get  "/admin/doctor"                ADMIN   TELLS doctor::examine;
    Post "/admin/pause"                 ADMIN   TELLS admin::pause;
    Post "/admin/resume"                ADMIN   TELLS admin::resume;
    Get  "/admin/tokens"                ADMIN   TELLS tokens::list;
    Post "/admin/tokens"                ADMIN   TELLS tokens::create;
    Post "/admin/tokens/{name}/revoke"  ADMIN   TELLS tokens::revoke;
}

/// What there is for a method and a path.
#[derive(Clone, Copy)]
pub(super) enum Found {
    /// A route.
    Route(&'static Route),
    /// Routes for other methods.
    OtherMethods,
    /// Nothing.
    Nothing,
}

/// Looks a request's route up. No two routes of the table fit one path and method.
pub(super) fn find(method: &Method, path: &str) -> Found {
    let mut found = Found::Nothing;
    for route in at(path) {
        if route.verb.takes(method) {
            return Found::Route(route);
        }
        found = Found::OtherMethods;
    }
    found
}

/// The routes of a path, for all methods.
fn at(path: &str) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| route.pattern.fits(path))
}

/// A route's path: what is before the segment in braces, and what is after it where there is one.
#[derive(Clone, Copy)]
struct Pattern {
    before: &'static str,
    after: Option<&'static str>,
}

impl Pattern {
    /// Taken apart when payd is compiled, not for every request.
    const fn of(path: &'static str) -> Self {
        let bytes = path.as_bytes();
        let mut open = 0;
        while open < bytes.len() && bytes[open] != b'{' {
            open += 1;
        }
        if open == bytes.len() {
            let (before, after) = (path, None);
            return Self { before, after };
        }
        let mut close = open;
        while bytes[close] != b'}' {
            close += 1;
        }
        Self {
            before: path.split_at(open).0,
            after: Some(path.split_at(close + 1).1),
        }
    }

    /// Whether a path is what a route's says: the same text, and any segment for the one in braces. One that
    /// is empty is none at the end of a path, and the id of nothing in the middle.
    fn fits(self, path: &str) -> bool {
        let Some(after) = self.after else {
            return path == self.before;
        };
        let Some(rest) = path.strip_prefix(self.before) else {
            return false;
        };
        let (segment, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        rest == after && !(segment.is_empty() && rest.is_empty())
    }
}

impl Found {
    /// The route's path, as the table has it.
    pub(super) fn path(self) -> Option<&'static str> {
        match self {
            Self::Route(route) => Some(route.path),
            Self::OtherMethods | Self::Nothing => None,
        }
    }

    /// Whether answering may write lines to the log, other than about the request as a whole.
    pub(super) fn lines(self) -> Lines {
        match self {
            Self::Route(route) => route.lines,
            Self::OtherMethods | Self::Nothing => Lines::None,
        }
    }

    /// Begins the answer: of the route, to those it lets in.
    fn begin(self, call: Call) -> Answering {
        let response = match self {
            Self::Route(route) => {
                let admitted = match route.access {
                    Access::Open => Ok(()),
                    Access::Token(scope) => auth::admit(&call, scope),
                };
                let turned = match admitted {
                    Ok(()) => return (route.handler)(call),
                    Err(turned) => turned,
                };
                let turned = async move { turned.answer(&call.shared).await.into_response() };
                return Box::pin(turned);
            }
            Self::OtherMethods => method_not_allowed(call.parts.uri.path()),
            Self::Nothing => not_found(),
        };
        Box::pin(std::future::ready(response))
    }
}

/// A request with its route. It is small: what is large is the handler's own, which is made once, where it
/// stays.
pub(super) enum Handling {
    /// Nothing has been done.
    Waiting(Found, Call),
    /// The handler is at it.
    Running(Answering),
    /// It has ended, or panicked.
    Ended,
}

impl Future for Handling {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let mut answering = match std::mem::replace(&mut *self, Self::Ended) {
            Self::Waiting(found, call) => found.begin(call),
            Self::Running(answering) => answering,
            Self::Ended => panic!("polled after its end"),
        };
        let polled = answering.as_mut().poll(context);
        if polled.is_pending() {
            *self = Self::Running(answering);
        }
        polled
    }
}

/// What every whole answer has, and that HEAD gets no body.
pub(super) fn complete(method: &Method, response: &mut Response) {
    // Told before the body goes that HEAD does not get.
    let size = response.body().size_hint().exact();
    tell_length(response.headers_mut(), size);
    if *method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
}

fn tell_length(headers: &mut HeaderMap, size: Option<u64>) {
    if let Some(size) = size
        && !headers.contains_key(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    }
}

fn not_found() -> Response {
    Reject::new(
        Code::NotFound,
        "There is no such route. GET /openapi.json lists all there are; paths end without a slash.",
    )
    .into_response()
}

fn method_not_allowed(path: &str) -> Response {
    let methods: Vec<_> = at(path).map(|route| route.verb.methods()).collect();
    let reject = Reject::new(
        Code::MethodNotAllowed,
        "This route takes other methods: those that Allow names.",
    );
    match HeaderValue::try_from(methods.join(",")) {
        Ok(methods) => reject.header(ALLOW, methods),
        Err(_) => reject,
    }
    .into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::api;
    use crate::domain::{
        Amount, Currency, EventType, Invoice, InvoiceId, InvoiceStatus, Money, NewInvoice,
        PaymentState, Timestamp,
    };
    use crate::http::OPENAPI;

    fn document() -> Value {
        serde_json::from_str(OPENAPI).unwrap()
    }

    /// Method, path and what the document says of them.
    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let item = item.as_object().unwrap().iter();
            item.filter(|(verb, _)| *verb != "parameters")
                .map(move |(verb, it)| (verb.to_uppercase(), path.clone(), it.clone()))
        });
        operations.collect()
    }

    fn enumerated(schema: &Value) -> BTreeSet<String> {
        let values = schema["enum"].as_array().unwrap().iter();
        values.map(|it| it.as_str().unwrap().to_owned()).collect()
    }

    fn schema(name: &str) -> jsonschema::Validator {
        let mut schema = document();
        schema["$ref"] = json!(format!("#/components/schemas/{name}"));
        jsonschema::draft202012::new(&schema).unwrap()
    }

    #[test]
    fn a_path_is_a_route_s_or_nobody_s() {
        for (method, path, want) in [
            (Method::POST, "/invoices", Ok("/invoices")),
            (Method::GET, "/invoices", Ok("/invoices")),
            (Method::HEAD, "/invoices/a%2Fb", Ok("/invoices/{id}")),
            (Method::GET, "/invoices/{id}", Ok("/invoices/{id}")),
            (Method::POST, "/invoices/pay/pay", Ok("/invoices/{id}/pay")),
            (Method::GET, "/invoices/", Err(false)),
            (
                Method::GET,
                "/invoices//payments",
                Ok("/invoices/{id}/payments"),
            ),
            (Method::GET, "/invoices//", Err(false)),
            (Method::GET, "/invoices/a/", Err(false)),
            (Method::GET, "/invoices/a/b", Err(false)),
            (Method::GET, "//invoices", Err(false)),
            (Method::GET, "/Invoices", Err(false)),
            (Method::GET, "/", Err(false)),
            (Method::GET, "", Err(false)),
            (Method::OPTIONS, "*", Err(false)),
            (Method::POST, "/invoices/a", Err(true)),
            (Method::HEAD, "/invoices/a/pay", Err(true)),
            (Method::OPTIONS, "/healthz", Err(true)),
        ] {
            let got = match find(&method, path) {
                Found::Route(route) => Ok(route.path),
                Found::OtherMethods => Err(true),
                Found::Nothing => Err(false),
            };
            assert_eq!(got, want, "{method} {path}");
        }
        for (n, route) in ROUTES.iter().enumerate() {
            let same = |it: &&Route| it.verb == route.verb && it.pattern.fits(route.path);
            assert_eq!(
                ROUTES.iter().position(|it| same(&it)),
                Some(n),
                "{}",
                route.path
            );
            assert_eq!(ROUTES.iter().filter(same).count(), 1, "{}", route.path);
            assert!(route.path.matches('{').count() < 2, "{}", route.path);
        }
        let allowed = |path| method_not_allowed(path).headers()[ALLOW].clone();
        assert_eq!(allowed("/invoices"), "POST,GET,HEAD");
        assert_eq!(allowed("/admin/tokens"), "GET,HEAD,POST");
        assert_eq!(allowed("/invoices/a/pay"), "POST");
    }

    /// What QUIET promises; `context::tell` is for lines about the request as a whole.
    #[test]
    fn quiet_handlers_write_no_lines() {
        for (name, source) in [
            ("batch", include_str!("batch.rs")),
            ("call", include_str!("call.rs")),
            ("health", include_str!("health.rs")),
            ("idempotency", include_str!("idempotency.rs")),
            ("invoices", include_str!("invoices.rs")),
            ("payments", include_str!("payments.rs")),
            ("room", include_str!("room.rs")),
            ("wait", include_str!("wait.rs")),
        ] {
            assert!(!source.contains("tracing::"), "{name}");
        }
    }

    #[test]
    fn the_document_has_these_routes_and_no_others() {
        let told: BTreeSet<_> = operations(&document())
            .into_iter()
            .map(|(verb, path, _)| (verb, path))
            .collect();
        let there: BTreeSet<_> = ROUTES
            .iter()
            .map(|it| (format!("{:?}", it.verb).to_uppercase(), it.path.to_owned()))
            .collect();
        assert_eq!(told, there);
    }

    #[test]
    fn the_document_is_of_this_version_and_each_operation_is_whole() {
        let document = document();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let mut ids = BTreeSet::new();
        for (verb, path, operation) in operations(&document) {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} twice");
            let parameters = operation["parameters"].to_string();
            let keyed = parameters.contains("parameters/IdempotencyKey");
            assert_eq!(keyed, verb == "POST", "{verb} {path}");
            let responses = operation["responses"].as_object().unwrap();
            let done = ["200", "201"].iter().any(|it| responses.contains_key(*it));
            assert!(done, "{verb} {path}");
            for (status, response) in responses {
                let response = match response["$ref"].as_str() {
                    Some(place) => document.pointer(&place[1..]).unwrap(),
                    None => response,
                };
                let place = format!("{verb} {path} {status}");
                assert!(response["headers"]["X-Request-Id"].is_object(), "{place}");
                let problem = response["content"]["application/problem+json"].is_object();
                assert_eq!(problem, status.as_str() >= "400", "{place}");
            }
        }
    }

    #[test]
    fn the_document_has_the_scope_of_every_route() {
        let operations = operations(&document());
        for route in ROUTES {
            let verb = format!("{:?}", route.verb).to_uppercase();
            let told = operations
                .iter()
                .find(|it| (&*it.0, &*it.1) == (verb.as_str(), route.path));
            let security = match route.access {
                Access::Open => json!([]),
                Access::Token(scope) => json!([{"token": [scope.as_str()]}]),
            };
            assert_eq!(
                told.unwrap().2["security"],
                security,
                "{verb} {}",
                route.path
            );
        }
    }

    #[test]
    fn the_document_knows_every_code_type_and_status() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let these =
            |all: Vec<&str>| -> BTreeSet<String> { all.into_iter().map(str::to_owned).collect() };
        let codes = api::Code::ALL.iter().map(|it| it.as_str()).collect();
        assert_eq!(
            enumerated(&schemas["Problem"]["properties"]["code"]),
            these(codes)
        );
        let scopes = Scope::ALL.iter().map(|it| it.as_str()).collect();
        assert_eq!(enumerated(&schemas["Scope"]), these(scopes));
        let types = EventType::ALL.iter().map(|it| it.as_str()).collect();
        assert_eq!(enumerated(&schemas["EventType"]), these(types));
        let statuses = InvoiceStatus::ALL.map(InvoiceStatus::as_str).to_vec();
        assert_eq!(enumerated(&schemas["InvoiceStatus"]), these(statuses));
        let states = PaymentState::ALL.map(PaymentState::as_str).to_vec();
        assert_eq!(enumerated(&schemas["PaymentStatus"]), these(states));
    }

    #[test]
    fn the_examples_are_what_their_schemas_say() {
        let document = document();
        let mut seen = 0;
        let mut check = |content: &Value, place: &str| {
            for (media, body) in content.as_object().into_iter().flatten() {
                if body["example"].is_null() {
                    continue;
                }
                let mut whole = document.clone();
                for (key, value) in body["schema"].as_object().unwrap() {
                    whole[key] = value.clone();
                }
                let validator = jsonschema::draft202012::new(&whole).unwrap();
                let errors: Vec<_> = validator
                    .iter_errors(&body["example"])
                    .map(|error| error.to_string())
                    .collect();
                assert!(errors.is_empty(), "{place} {media}: {errors:?}");
                seen += 1;
            }
        };
        for (verb, path, operation) in operations(&document) {
            check(
                &operation["requestBody"]["content"],
                &format!("{verb} {path}"),
            );
            for (status, response) in operation["responses"].as_object().unwrap() {
                check(&response["content"], &format!("{verb} {path} {status}"));
            }
        }
        for (name, response) in document["components"]["responses"].as_object().unwrap() {
            check(&response["content"], name);
        }
        for (name, it) in document["components"]["schemas"].as_object().unwrap() {
            for example in it["examples"].as_array().into_iter().flatten() {
                assert!(schema(name).is_valid(example), "{name}");
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen} examples");
    }

    #[test]
    fn what_is_written_is_what_the_document_says() {
        let invoice = Invoice::new(
            NewInvoice {
                id: InvoiceId::parse("inv-1").unwrap(),
                money: Money {
                    amount: Amount::new(1000).unwrap(),
                    currency: Currency::DEFAULT,
                },
                description: None,
                metadata: [("k".to_owned(), "v".to_owned())].into(),
                payment_method: None,
                due_at: None,
            },
            Timestamp::from_millis(0),
        );
        let shown = serde_json::to_value(api::Invoice::of(&invoice, None)).unwrap();
        assert!(schema("Invoice").is_valid(&shown), "{shown}");
        let told = &document()["components"]["schemas"]["Invoice"]["required"];
        let told: Vec<_> = told.as_array().unwrap().iter().collect();
        assert_eq!(told.len(), shown.as_object().unwrap().len());
        let problem = Reject::field("amount", "is required");
        let shown = serde_json::to_value(problem.problem()).unwrap();
        assert!(schema("Problem").is_valid(&shown), "{shown}");
    }
}
