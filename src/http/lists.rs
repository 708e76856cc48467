//! Lists, in constant memory however long they are: read and sent a piece at a time, as fast as the
//! client reads. A list that fits into a small answer is one, whole.
//!
//! A page of a thousand large invoices is as little in memory as an export of a million.

use axum::response::{IntoResponse, Response};

use super::call::Call;
use super::headers::Media;
use super::problem::Reject;
use super::room::SMALL;
use super::stream::{self, Sender};

/// Bytes of a list that are read at a time, and one item more.
pub(super) const PIECE: usize = 32 * 1024;

/// What a list is made of, from where it stands.
pub(super) trait Source: Clone + Send + 'static {
    /// Reads on until there are so many bytes, or all.
    fn read(
        &mut self,
        call: &Call,
        bytes: usize,
    ) -> impl Future<Output = Result<Piece, Reject>> + Send;
}

/// A part of a list.
pub(super) struct Piece {
    /// As it is sent.
    pub(super) bytes: Vec<u8>,
    /// Whether it is the last.
    pub(super) is_last: bool,
}

/// The list, small and whole or in pieces.
pub(super) async fn answer(
    call: Call,
    media: Media,
    mut source: impl Source,
) -> Result<Response, Reject> {
    let start = source.clone();
    let mut first = source.read(&call, SMALL).await?;
    if first.is_last {
        return Ok(whole(media, first.bytes));
    }
    let place = match call.side().list_now() {
        Some(place) => place,
        None => {
            // Nothing is held while it waits.
            drop(first);
            let place = call.side().list().await?;
            source = start;
            first = source.read(&call, SMALL).await?;
            place
        }
    };
    let response = stream::response(media, move |sender| send(call, source, first, sender));
    Ok(place.go_with(response))
}

fn whole(media: Media, bytes: Vec<u8>) -> Response {
    use axum::http::header::{CONTENT_TYPE, HeaderValue};
    let kind = HeaderValue::from_static(media.as_str());
    ([(CONTENT_TYPE, kind)], bytes).into_response()
}

/// It has an end, so payd waits for it when it drains.
async fn send(call: Call, mut source: impl Source, first: Piece, sender: Sender) {
    let mut piece: Result<Piece, Reject> = Ok(first);
    loop {
        let Piece { bytes, is_last } = match piece {
            Ok(piece) => piece,
            // The body breaks off, so that nobody takes what there is for all there is.
            Err(reject) => {
                tracing::error!(cause = reject.cause(), "a list cannot go on");
                return;
            }
        };
        if sender.send(bytes).await.is_err() {
            return;
        }
        if is_last {
            sender.end().await;
            return;
        }
        // The last one is taken before the next is read, which would be one more in memory.
        if sender.taken().await.is_err() || !call.is_still_allowed() {
            return;
        }
        piece = source.read(&call, PIECE).await;
    }
}

/// Items as they stand in an answer: an object with a field of them and `next`, or one a line.
#[derive(Clone)]
pub(super) struct Writer {
    field: Option<&'static str>,
    begun: bool,
    bytes: Vec<u8>,
}

impl Writer {
    /// Nothing yet. `field` is the name of the page's field.
    pub(super) fn new(media: Media, field: &'static str) -> Self {
        Self {
            field: (media == Media::Json).then_some(field),
            begun: false,
            bytes: Vec::new(),
        }
    }

    /// One more.
    pub(super) fn item(&mut self, json: &[u8]) {
        self.begin();
        self.bytes.extend_from_slice(json);
        if self.field.is_none() {
            self.bytes.push(b'\n');
        }
    }

    /// There are no more.
    pub(super) fn end(&mut self, next: Option<u64>) {
        if self.field.is_none() {
            return;
        }
        if !self.begun {
            self.begin();
        }
        let next = next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\""));
        self.bytes
            .extend_from_slice(format!("],\"next\":{next}}}").as_bytes());
    }

    /// What stands before the next item.
    fn begin(&mut self) {
        let Some(field) = self.field else {
            return;
        };
        if std::mem::replace(&mut self.begun, true) {
            self.bytes.push(b',');
        } else {
            self.bytes
                .extend_from_slice(format!("{{\"{field}\":[").as_bytes());
        }
    }

    /// Bytes that have not been taken.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What has been written since it was last taken.
    pub(super) fn take(&mut self) -> Vec<u8> {
        // It may lie there for long: not twice as large as it is, as it has grown by doubling.
        self.bytes.shrink_to_fit();
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_put_together_are_a_page_or_lines() {
        for (media, items, next, want) in [
            (Media::Json, 0, None, r#"{"a":[],"next":null}"#),
            (Media::Json, 1, None, r#"{"a":[0],"next":null}"#),
            (Media::Json, 3, Some(7), r#"{"a":[0,1,2],"next":"7"}"#),
            (Media::Ndjson, 0, None, ""),
            (Media::Ndjson, 2, Some(7), "0\n1\n"),
        ] {
            let mut writer = Writer::new(media, "a");
            let mut all = Vec::new();
            for item in 0..items {
                writer.item(item.to_string().as_bytes());
                all.extend(writer.take());
            }
            writer.end(next);
            assert_eq!(writer.len(), writer.bytes.len());
            all.extend(writer.take());
            assert_eq!(String::from_utf8(all).unwrap(), want);
        }
    }
}
