//! Who may come in, and what those who may not can do to the others (`DESIGN.md`, sections 5, 8 and
//! 10): tokens, TLS, limits.

mod file;
mod flood;
mod limits;
mod payctl;
mod secrets;
mod tls;
mod tokens;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;

/// Makes a token over the socket: its description, and the token itself.
fn make_token(daemon: &Daemon, name: &str, scopes: &[&str]) -> (Value, String) {
    let body = json!({"name": name, "scopes": scopes}).to_string();
    let made = daemon.unix.post("/admin/tokens", &body).expect(201);
    let token = made["token"].as_str().unwrap().to_owned();
    (made, token)
}

/// The admin's token, from its file.
pub(crate) fn admin_token(daemon: &Daemon) -> String {
    let file = daemon.directory().join("data/token");
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}
