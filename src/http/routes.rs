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
        let access = route.access;
        let guarded = (route.handler)(route.verb.filter()).route_layer(from_fn(
            move |request: Request, next: Next| async move {
                match admit(access, &request) {
                    Ok(()) => next.run(request).await,
                    Err(reject) => reject.into_response(),
                }
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
