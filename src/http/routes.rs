//! The table of routes: the one place that says what there is, and who may. `openapi.json` is held
//! to it by a test.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::context::{Identity, Shared};
use super::problem::Reject;
use super::{admin, events, health, invoices, payments};
use crate::api::Code;

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

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anyone, always: the health checks.
    Open,
    /// Whoever may use the API.
    Normal,
    /// Operators: who may open the Unix socket.
    Admin,
}

/// A route.
pub(super) struct Route {
    pub(super) verb: Verb,
    pub(super) path: &'static str,
    pub(super) access: Access,
    handler: fn(MethodFilter) -> MethodRouter<Arc<Shared>>,
}

/// The route that answered, in the response's extensions: for what is measured by route, where the
/// path would be a series for every invoice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Template(pub(super) &'static str);

macro_rules! routes {
    ($($verb:ident $path:literal $access:ident $handler:path;)*) => {
        /// All of them.
        pub(super) const ROUTES: &[Route] = &[$(Route {
            verb: Verb::$verb,
            path: $path,
            access: Access::$access,
            handler: |verb| on(verb, $handler),
        },)*];
    };
}

routes! {
    Post "/invoices"               Normal invoices::create;
    Get  "/invoices"               Normal invoices::list;
    Get  "/invoices/{id}"          Normal invoices::show;
    Post "/invoices/{id}/pay"      Normal payments::pay;
    Post "/invoices/{id}/cancel"   Normal invoices::cancel;
    Get  "/invoices/{id}/payments" Normal payments::list;
    Get  "/payments/{id}"          Normal payments::show;
    Post "/payments/{id}/resolve"  Normal payments::resolve;
    Get  "/events"                 Normal events::list;
    Get  "/healthz"                Open   health::healthz;
    Get  "/readyz"                 Open   health::readyz;
    Get  "/metrics"                Normal health::metrics;
    Get  "/openapi.json"           Normal health::openapi;
    Get  "/admin/status"           Admin  admin::status;
    Post "/admin/pause"            Admin  admin::pause;
    Post "/admin/resume"           Admin  admin::resume;
}

/// The router, the same for every listener.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let (access, template) = (route.access, Template(route.path));
        let guarded = (route.handler)(route.verb.filter()).route_layer(from_fn(
            move |request: Request, next: Next| async move {
                let mut response = match admit(access, &request) {
                    Ok(()) => next.run(request).await,
                    Err(reject) => reject.into_response(),
                };
                response.extensions_mut().insert(template);
                response
            },
        ));
        router = router.route(route.path, guarded);
    }
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(shared)
}

fn admit(access: Access, request: &Request) -> Result<(), Reject> {
    let over_unix = request
        .extensions()
        .get::<Identity>()
        .is_some_and(|identity| identity.over_unix);
    match access {
        Access::Open | Access::Normal => Ok(()),
        Access::Admin if over_unix => Ok(()),
        Access::Admin => Err(Reject::new(
            Code::Forbidden,
            "/admin is for operators, and only on the Unix socket: `payctl status` uses it, or \
             curl --unix-socket.",
        )),
    }
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
            assert!(responses.contains_key("200"), "{verb} {path}");
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
