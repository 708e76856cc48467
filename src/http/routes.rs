//! The table of routes: the one place that says what there is, and who may. `openapi.json` is held
//! to it by a test.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::auth;
use super::context::Shared;
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
    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
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

/// A route.
pub(super) struct Route {
    pub(super) verb: Verb,
    pub(super) path: &'static str,
    pub(super) access: Access,
    handler: fn(MethodFilter) -> MethodRouter<Arc<Shared>>,
}

macro_rules! routes {
    ($($verb:ident $path:literal $access:ident $handler:path;)*) => {
        /// All of them.
        pub(super) const ROUTES: &[Route] = &[$(Route {
            verb: Verb::$verb,
            path: $path,
            access: $access,
            handler: |verb| on(verb, $handler),
        },)*];
    };
}

routes! {
    Post "/invoices"                    CREATE  invoices::create;
    Get  "/invoices"                    READ    invoices::list;
    Get  "/invoices/{id}"               READ    invoices::show;
    Post "/invoices/{id}/pay"           PAY     payments::pay;
    Post "/invoices/{id}/cancel"        PAY     invoices::cancel;
    Get  "/invoices/{id}/payments"      READ    payments::list;
    Get  "/payments/{id}"               READ    payments::show;
    // An operator's word moves what payd believes of money.
    Post "/payments/{id}/resolve"       ADMIN   payments::resolve;
    Get  "/events"                      READ    events::list;
    Get  "/healthz"                     OPEN    health::healthz;
    Get  "/readyz"                      OPEN    health::readyz;
    Get  "/metrics"                     METRICS health::metrics;
    Get  "/openapi.json"                READ    health::openapi;
    Get  "/admin/status"                ADMIN   admin::status;
    Post "/admin/backup"                ADMIN   upkeep::backup;
    Get  "/admin/verify"                ADMIN   upkeep::verify;
    Get  "/admin/doctor"                ADMIN   doctor::examine;
    Post "/admin/pause"                 ADMIN   admin::pause;
    Post "/admin/resume"                ADMIN   admin::resume;
    Get  "/admin/tokens"                ADMIN   tokens::list;
    Post "/admin/tokens"                ADMIN   tokens::create;
    Post "/admin/tokens/{name}/revoke"  ADMIN   tokens::revoke;
}

/// The router, the same for every listener.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler = (route.handler)(route.verb.filter());
        let guarded = match route.access {
            Access::Open => handler,
            Access::Token(scope) => {
                let shared = Arc::clone(&shared);
                handler.route_layer(from_fn(move |request: Request, next: Next| {
                    let shared = Arc::clone(&shared);
                    async move {
                        match auth::admit(&shared, scope, &request) {
                            Ok(()) => next.run(request).await,
                            Err(turned) => turned.answer(&shared).await.into_response(),
                        }
                    }
                }))
            }
        };
        router = router.route(route.path, guarded);
    }
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(shared)
}

async fn not_found() -> Response {
    Reject::new(
        Code::NotFound,
        "There is no such route. GET /openapi.json lists all there are; paths end without a slash.",
    )
    .into_response()
}

/// The router adds Allow.
async fn method_not_allowed() -> Response {
    Reject::new(
        Code::MethodNotAllowed,
        "This route takes other methods: those that Allow names.",
    )
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
