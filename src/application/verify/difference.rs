//! Where the tables and the events differ, in a sentence for whoever has to do with it. Text that clients wrote
//! is not repeated: it is long, and the log has its reader.

use crate::domain::{Aggregate, Invoice, Payment, Timestamp};

/// The first differences of an invoice and its payments; `None` where they are the same.
pub(super) fn of(tables: &Aggregate, folded: &Aggregate) -> Option<String> {
    if tables.invoice != folded.invoice {
        return Some(said(&invoice(&tables.invoice, &folded.invoice), ""));
    }
    let (there, expected) = (tables.payments.len(), folded.payments.len());
    if there != expected {
        return Some(format!(
            "the tables have {}, and its events come to {expected}",
            payments(there)
        ));
    }
    let mut both = tables.payments.iter().zip(&folded.payments);
    both.find(|(table, folded)| table != folded)
        .map(|(table, folded)| latest(table, folded))
}

/// The same for one payment, which differs.
pub(super) fn latest(table: &Payment, folded: &Payment) -> String {
    let of = format!(" of payment {}", folded.attempt);
    said(&payment(table, folded), &of)
}

fn payments(count: usize) -> String {
    match count {
        1 => "1 payment".to_owned(),
        count => format!("{count} payments"),
    }
}

/// One field: its name, and the two words on it where they are short.
struct Field {
    name: &'static str,
    words: Option<(String, String)>,
}

fn said(fields: &[Field], of: &str) -> String {
    let each = fields.iter().map(|field| match &field.words {
        Some((table, events)) => format!(
            "{}{of} is {table} in the tables, and its events come to {events}",
            field.name
        ),
        None => format!(
            "{}{of} is another in the tables than its events come to",
            field.name
        ),
    });
    let all: Vec<_> = each.collect();
    if all.is_empty() {
        // A field that this list does not have yet: better said vaguely than not at all.
        return format!("something{of} is another in the tables than its events come to");
    }
    all.join("; ")
}

/// Those of the fields that differ. Times, counts and states are told; text is not.
macro_rules! fields {
    ($table:expr, $folded:expr, { $($name:literal: $($field:ident).+ $(=> $show:expr)?,)* }) => {{
        let (table, folded) = ($table, $folded);
        let mut differ = Vec::new();
        $(if table.$($field).+ != folded.$($field).+ {
            differ.push(Field { name: $name, words: fields!(@words table, folded, $($field).+ $(, $show)?) });
        })*
        differ
    }};
    (@words $table:ident, $folded:ident, $($field:ident).+, $show:expr) => {
        Some(($show(&$table.$($field).+), $show(&$folded.$($field).+)))
    };
    (@words $table:ident, $folded:ident, $($field:ident).+) => { None };
}

fn plain(value: &impl ToString) -> String {
    value.to_string()
}

fn time(at: &Option<Timestamp>) -> String {
    at.map_or_else(|| "none".to_owned(), |at| at.to_string())
}

fn mark(set: &bool) -> String {
    if *set { "set" } else { "not set" }.to_owned()
}

fn number(number: &Option<u32>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

fn invoice(table: &Invoice, folded: &Invoice) -> Vec<Field> {
    fields!(table, folded, {
        "the id": content.id => plain,
        "the amount": content.money => |it: &crate::domain::Money| {
            format!("{} {}", it.amount.minor_units(), it.currency)
        },
        "the description": content.description,
        "the metadata": content.metadata,
        "the payment method": content.payment_method,
        "the due time": content.due_at => time,
        "the status": status => |it: &crate::domain::InvoiceStatus| it.as_str().to_owned(),
        "the number of payments": attempts => plain,
        "the number of payments before this round": attempts_before_round => plain,
        "the mark for an operator": needs_attention => mark,
        "the payment that was contradicted": contradicted_attempt => number,
        "the request to cancel": cancel_requested => mark,
        "the reason to cancel": cancel_reason,
        "the time it was made": created_at => plain,
        "the time of its last event": updated_at => plain,
        "the time it was paid": paid_at => time,
    })
}

fn payment(table: &Payment, folded: &Payment) -> Vec<Field> {
    fields!(table, folded, {
        "the id": id => plain,
        "the number": attempt => plain,
        "the key": key => plain,
        "the payment method": method,
        "the status": state => |it: &crate::domain::PaymentState| it.as_str().to_owned(),
        "the gateway": gateway,
        "the gateway's reference": gateway_reference,
        "the failure": failure,
        "the time it was asked for": requested_at => plain,
        "the due time": due_at => plain,
        "the time it was decided": finished_at => time,
        "the number of times it was sent anew": resends => plain,
        "the mark of a contradiction": contradicted => mark,
        "the mark of a restore": restored => mark,
    })
}
