//! How events stand in a stream, and what stands there while there are none. Pure.

use std::fmt::Write;
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::Bytes;

use super::headers::Media;

/// Silence on a stream before a sign of life (`DESIGN.md`, section 4).
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// What a frame adds to an event, at most: for who makes room.
const FRAME_MAX: usize = 40;

/// One event. Without an `event:` line, which a browser's `onmessage` would pass over; the type is
/// in the data (HTML, section 9.2.6). Stored events have no line breaks.
fn frame(media: Media, sequence: u64, event: &[u8], into: &mut Vec<u8>) {
    if media == Media::EventStream {
        let mut id = String::with_capacity(32);
        // Writing to a String cannot fail.
        let _ = write!(id, "id: {sequence}\ndata: ");
        into.extend_from_slice(id.as_bytes());
        into.extend_from_slice(event);
        into.extend_from_slice(b"\n\n");
    } else {
        into.extend_from_slice(event);
        into.push(b'\n');
    }
}

/// A sign of life, which is no event.
pub(super) const fn heartbeat(media: Media) -> &'static str {
    match media {
        Media::EventStream => ": heartbeat\n\n",
        Media::Json | Media::Ndjson => "\n",
    }
}

/// Events as the stream writes them.
pub(super) fn frames(media: Media, events: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let size = events.iter().map(|(_, event)| event.len() + FRAME_MAX);
    let mut bytes = Vec::with_capacity(size.sum());
    for (sequence, event) in events {
        frame(media, *sequence, event, &mut bytes);
    }
    bytes
}

/// Events that stand together, in each format that somebody wants.
pub(super) struct Segment {
    sequences: Vec<u64>,
    lines: Framed,
    frames: OnceLock<Framed>,
}

/// Events as they are sent.
struct Framed {
    bytes: Bytes,
    /// Where each ends.
    ends: Vec<usize>,
}

/// What a stream sends of a segment.
pub(super) struct Part {
    /// As it is sent.
    pub(super) bytes: Bytes,
    /// How many events these are.
    pub(super) count: usize,
    /// The sequence of the last.
    pub(super) last: u64,
}

impl Framed {
    fn with_capacity(events: usize, bytes: usize) -> (Vec<u8>, Vec<usize>) {
        (Vec::with_capacity(bytes), Vec::with_capacity(events))
    }

    fn new(bytes: Vec<u8>, ends: Vec<usize>) -> Self {
        let bytes = bytes.into();
        Self { bytes, ends }
    }

    fn begin(&self, event: usize) -> usize {
        match event.checked_sub(1) {
            Some(before) => self.ends[before],
            None => 0,
        }
    }
}

impl Segment {
    /// At least one event, in order.
    pub(super) fn new(events: &[(u64, Vec<u8>)]) -> Self {
        let size = events.iter().map(|(_, event)| event.len() + 1).sum();
        let (mut bytes, mut ends) = Framed::with_capacity(events.len(), size);
        for (sequence, event) in events {
            frame(Media::Ndjson, *sequence, event, &mut bytes);
            ends.push(bytes.len());
        }
        Self {
            sequences: events.iter().map(|(sequence, _)| *sequence).collect(),
            lines: Framed::new(bytes, ends),
            frames: OnceLock::new(),
        }
    }

    /// The sequence of the last.
    pub(super) fn last(&self) -> u64 {
        self.sequences.last().copied().unwrap_or(0)
    }

    /// Bytes, as lines.
    pub(super) fn size(&self) -> usize {
        self.lines.bytes.len()
    }

    fn framed(&self, media: Media) -> &Framed {
        if media != Media::EventStream {
            return &self.lines;
        }
        self.frames.get_or_init(|| {
            let count = self.sequences.len();
            let size = self.size() + count * FRAME_MAX;
            let (mut bytes, mut ends) = Framed::with_capacity(count, size);
            for (n, sequence) in self.sequences.iter().enumerate() {
                // Without the end of its line.
                let event = &self.lines.bytes[self.lines.begin(n)..self.lines.ends[n] - 1];
                frame(media, *sequence, event, &mut bytes);
                ends.push(bytes.len());
            }
            Framed::new(bytes, ends)
        })
    }

    /// What comes after a cursor, up to so many events. `None`: nothing does.
    pub(super) fn part(&self, media: Media, after: u64, limit: usize) -> Option<Part> {
        let from = self.sequences.partition_point(|it| *it <= after);
        let to = from.saturating_add(limit).min(self.sequences.len());
        let last = *self.sequences.get(from..to)?.last()?;
        let framed = self.framed(media);
        Some(Part {
            bytes: framed.bytes.slice(framed.begin(from)..framed.begin(to)),
            count: to - from,
            last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_the_formats_say() {
        let mut bytes = Vec::new();
        frame(Media::EventStream, 42, b"{\"id\":\"42\"}", &mut bytes);
        frame(Media::Ndjson, 43, b"{\"id\":\"43\"}", &mut bytes);
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "id: 42\ndata: {\"id\":\"42\"}\n\n{\"id\":\"43\"}\n"
        );
    }

    #[test]
    fn a_frame_adds_no_more_than_is_made_room_for() {
        let mut bytes = Vec::new();
        frame(Media::EventStream, u64::MAX, b"", &mut bytes);
        assert!(bytes.len() <= FRAME_MAX, "{}", bytes.len());
    }

    fn segment(range: std::ops::RangeInclusive<u64>) -> Segment {
        let events: Vec<_> = range
            .map(|n| (n, format!("{{\"id\":\"{n}\"}}").into_bytes()))
            .collect();
        Segment::new(&events)
    }

    #[test]
    fn a_part_of_a_segment_is_what_comes_after_a_cursor_up_to_a_limit() {
        let segment = segment(9..=12);
        assert_eq!((segment.last(), segment.size()), (12, 11 + 12 * 3));
        for (after, limit, want) in [
            (0, usize::MAX, 9..=12),
            (8, 4, 9..=12),
            (9, usize::MAX, 10..=12),
            (9, 2, 10..=11),
            (11, 1, 12..=12),
            (8, 1, 9..=9),
        ] {
            for media in [Media::Ndjson, Media::EventStream] {
                let part = segment.part(media, after, limit).unwrap();
                let mut bytes = Vec::new();
                for n in want.clone() {
                    frame(
                        media,
                        n,
                        format!("{{\"id\":\"{n}\"}}").as_bytes(),
                        &mut bytes,
                    );
                }
                assert_eq!(part.bytes, bytes, "{after} {limit}");
                assert_eq!(part.count, want.clone().count());
                assert_eq!(part.last, *want.end());
            }
        }
        for (after, limit) in [(12, 1), (99, usize::MAX), (0, 0)] {
            assert!(segment.part(Media::Ndjson, after, limit).is_none());
        }
    }

    #[test]
    fn all_who_take_from_a_segment_send_the_same_bytes() {
        let segment = segment(1..=3);
        for media in [Media::Ndjson, Media::EventStream] {
            let one = segment.part(media, 0, usize::MAX).unwrap().bytes;
            let other = segment.part(media, 1, usize::MAX).unwrap().bytes;
            assert_eq!(one[one.len() - other.len()..].as_ptr(), other.as_ptr());
        }
    }
}
