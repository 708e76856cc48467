//! An event as the log stores it and the streams carry it: CloudEvents 1.0, structured JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The envelope. `data` stays as it was written.
/// Source: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event<'a> {
    /// Always `1.0`.
    pub specversion: Cow<'a, str>,
    /// The sequence in decimal, and the cursor.
    pub id: Cow<'a, str>,
    /// `/payd/<store id>`.
    pub source: Cow<'a, str>,
    /// Such as `PaymentRequested`.
    #[serde(rename = "type")]
    pub kind: Cow<'a, str>,
    /// The invoice's id.
    pub subject: Cow<'a, str>,
    /// RFC 3339.
    pub time: Cow<'a, str>,
    /// Always `application/json`.
    pub datacontenttype: Cow<'a, str>,
    /// W3C trace context, where the request carried one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Cow<'a, str>>,
    /// Who caused it: `uid:1000`, `tcp`, or `payd` itself. An extension attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Cow<'a, str>>,
    /// A snapshot at that commit.
    pub data: Cow<'a, RawValue>,
}

/// A page of events, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventPage<'a> {
    /// Oldest first.
    pub events: Vec<Event<'a>>,
    /// The cursor to go on from; always present, also on an empty page.
    pub next: Cow<'a, str>,
}
