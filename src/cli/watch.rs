//! Waits until something may have changed about an invoice: the event stream wakes, and whoever
//! waits then asks for the invoice itself. So a lost event, a refused stream and a restart of
//! payd cost time, never truth. It never polls while a stream is open.

use std::time::Duration;

use tokio::time::sleep;

use crate::cli::arguments::InvoiceId;
use crate::cli::context::{Context, Pause, query};
use crate::client::{Client, Lines, Request, Streamed};

/// payd sends a heartbeat every 15 s; a stream that misses three of them is dead.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(45);

/// A wake-up for one invoice.
pub(crate) struct Watch {
    client: Client,
    request: Request,
    lines: Option<Lines>,
    pause: Pause,
}

impl Watch {
    /// Watches an invoice, on a connection of its own, opened when first waited on.
    pub(crate) fn new(context: &Context, id: &InvoiceId) -> Self {
        let target = format!(
            "/events{}",
            query(&[("invoice", id.as_str()), ("after", "now")])
        );
        Self {
            client: context.client.another(),
            request: Request::get(target).ndjson(),
            lines: None,
            pause: Pause::new(),
        }
    }

    /// Returns when the invoice should be looked at: after an event, when a stream was just
    /// opened (what happened before it was opened has no event in it), and after a pause when
    /// none can be. Safe to drop halfway.
    pub(crate) async fn changed(&mut self) {
        let Some(lines) = &mut self.lines else {
            match self.client.stream(&self.request).await {
                Ok(Streamed::Lines(lines)) => {
                    self.lines = Some(lines);
                    self.pause = Pause::new();
                }
                Ok(Streamed::Refused(answer)) => {
                    let wait = self.pause.next();
                    sleep(answer.retry_after().unwrap_or(wait).max(wait)).await;
                }
                Err(_) => sleep(self.pause.next()).await,
            }
            return;
        };
        loop {
            match lines.next(SILENCE_MAX).await {
                // A heartbeat.
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(_)) => {
                    if !lines.has_line() {
                        return;
                    }
                }
                Ok(None) | Err(_) => {
                    self.lines = None;
                    return;
                }
            }
        }
    }
}
