//! Why an invoice stands where it stands, what comes next, and what one can do: a ladder over its
//! status and that of its open payment. Pure, and not cleaned yet.

use jiff::Timestamp;
use serde_json::Value;

use super::story::Story;
use crate::api::{Event, Payment};
use crate::cli::payment::reason;

/// The end of a story. None of it is cleaned yet.
pub(super) struct Standing {
    pub(super) why: Vec<String>,
    pub(super) next: Vec<String>,
    /// Commands, and what each is for.
    pub(super) can: Vec<(String, &'static str)>,
}

impl Story<'_> {
    /// Why the open payment was last requested.
    fn cause(&self, payment: &Payment<'_>) -> String {
        let of_payment = |event: &&Event<'_>| {
            event.kind == "PaymentRequested" && event.data.get().contains(&*payment.id)
        };
        let event = self.events.iter().rev().find(of_payment);
        let data: Option<Value> =
            event.and_then(|event| serde_json::from_str(event.data.get()).ok());
        let cause = data.as_ref().and_then(|data| data.get("cause")?.as_str());
        cause.unwrap_or_default().to_owned()
    }

    /// Where it stands.
    pub(super) fn standing(&self) -> Standing {
        let id = &self.invoice.id;
        let show = (format!("payctl payment list {id}"), "see its payments");
        match &*self.invoice.status {
            "PENDING" => Standing {
                why: vec!["Nobody has asked for it to be paid.".into()],
                next: vec!["Nothing, until somebody does.".into()],
                can: vec![
                    (format!("payctl pay {id}"), "have it paid"),
                    (format!("payctl invoice cancel {id}"), "cancel it"),
                ],
            },
            "PAID" => self.paid(),
            "FAILED" => self.failed(),
            "CANCELED" => Standing {
                why: vec!["It was canceled, and no payment of it succeeded.".into()],
                next: vec!["Nothing; canceled is final.".into()],
                can: if self.payments.is_empty() {
                    Vec::new()
                } else {
                    vec![show]
                },
            },
            "PROCESSING" => self.processing(),
            other => Standing {
                why: vec![format!("It is {other}, which this payctl does not know.")],
                next: vec!["That, a newer payctl can tell.".into()],
                can: Vec::new(),
            },
        }
    }

    fn paid(&self) -> Standing {
        let id = &self.invoice.id;
        let succeeded = self
            .payments
            .iter()
            .find(|payment| payment.status == "SUCCEEDED");
        let why = match succeeded {
            Some(payment) => {
                let when = payment
                    .finished_at
                    .as_deref()
                    .or(self.invoice.paid_at.as_deref());
                let when = when.map_or_else(String::new, |when| format!(" {}", self.when(when)));
                format!(
                    "Payment {} ({}) succeeded{when}.",
                    payment.attempt, payment.id
                )
            }
            None => "A payment of it succeeded.".to_owned(),
        };
        let mut can = Vec::new();
        if let Some(payment) = succeeded {
            can.push((
                format!("payctl payment show {}", payment.id),
                "see the payment",
            ));
        }
        if self.invoice.needs_attention {
            can.push((
                format!("payctl -o json events tail --invoice {id} --after beginning"),
                "see the evidence",
            ));
        }
        Standing {
            why: vec![why],
            next: vec!["Nothing; paid is final.".into()],
            can,
        }
    }

    fn failed(&self) -> Standing {
        let id = &self.invoice.id;
        let mut why = Vec::new();
        if let Some(payment) = self.payments.last() {
            let failure = payment.failure.as_ref();
            let text = failure.map_or_else(|| "no reason given".to_owned(), reason);
            why.push(format!(
                "Payment {} ({}) failed: {text}.",
                payment.attempt, payment.id
            ));
            why.push(match failure {
                Some(failure) if failure.kind == "resolved" => {
                    "An operator resolved it so; that is never retried by itself.".to_owned()
                }
                Some(failure) if failure.retryable => {
                    "Another attempt could succeed, but the attempts of this round are used up."
                        .to_owned()
                }
                _ => "The gateway declined it for good, so the same is not tried again.".to_owned(),
            });
        }
        if let Some(doubted) = self.doubted() {
            why.push(format!(
                "The gateway has since contradicted the failure of payment {doubted}."
            ));
            return Standing {
                why,
                next: vec![
                    "Nothing by itself, and nothing would be sent: it could be a second charge."
                        .into(),
                ],
                can: vec![(
                    format!("payctl invoice cancel {id}"),
                    "give it up, once the gateway's books are clear",
                )],
            };
        }
        Standing {
            why,
            next: vec!["Nothing by itself.".into()],
            can: vec![
                (format!("payctl pay {id}"), "try again"),
                (format!("payctl pay {id} --method TOKEN"), "try another way"),
                (format!("payctl invoice cancel {id}"), "give it up"),
            ],
        }
    }

    fn processing(&self) -> Standing {
        let id = &self.invoice.id;
        let open = self.payments.iter().rev().find(|payment| {
            matches!(
                &*payment.status,
                "REQUESTED" | "SENDING" | "ACCEPTED" | "UNKNOWN" | "REVIEW"
            )
        });
        let Some(payment) = open else {
            return Standing {
                why: vec!["It changed while it was read: no payment of it is open.".into()],
                next: vec!["Look again.".into()],
                can: vec![(format!("payctl explain {id}"), "look again")],
            };
        };
        let mut standing = self.open(payment);
        if self.invoice.cancel_requested {
            standing.why.push(
                "A cancel was requested, but this payment may have been sent, so its outcome \
                 decides."
                    .into(),
            );
            standing.next.push(
                "If the payment fails, the invoice becomes CANCELED; if it succeeds, PAID.".into(),
            );
        } else {
            let cancel = if payment.status == "REQUESTED" && payment.sent_at.is_none() {
                "cancel it"
            } else {
                "cancel if it fails"
            };
            standing
                .can
                .push((format!("payctl invoice cancel {id}"), cancel));
        }
        standing
    }

    /// Why an open payment stands where it stands.
    fn open(&self, payment: &Payment<'_>) -> Standing {
        let id = &self.invoice.id;
        let Payment {
            id: payment_id,
            attempt,
            idempotency_key: key,
            ..
        } = payment;
        let name = format!("payment {attempt}");
        let sent = match &payment.sent_at {
            Some(sent) => format!("sent {}", self.when(sent)),
            None => "sent".to_owned(),
        };
        let wait = (format!("payctl wait {id}"), "wait for it");
        let show = (
            format!("payctl payment show {payment_id}"),
            "see the payment",
        );
        let resolve = |what| {
            let command = format!("payctl payment resolve {payment_id} --as {what} --reason TEXT");
            let title = if what == "succeeded" {
                "the gateway shows the charge"
            } else {
                "the gateway shows no charge"
            };
            (command, title)
        };
        let looked_up = "payd asks the gateway again, at growing distances, until it knows; \
                         nothing is sent meanwhile.";
        match &*payment.status {
            "REQUESTED" => {
                let why = match &*self.cause(payment) {
                    "retry" => "the one before it failed in a way that another may not",
                    "not_sent" => "the gateway did not execute it when it was sent last",
                    "not_received" => "the gateway proved that it never had it",
                    "manual" => "somebody asked for another round",
                    _ => "somebody asked for it",
                };
                let due = payment.due_at.parse::<Timestamp>();
                let later = due.is_ok_and(|due| due > self.now);
                let next = if let Some(doubted) = self.doubted().filter(|it| it < attempt) {
                    format!(
                        "It is not sent: payment {doubted} failed, and the gateway has since said \
                         otherwise. Look at the gateway: another charge could be a second one."
                    )
                } else if let Some(held) = self.held {
                    held.why.clone()
                } else if later {
                    format!("It goes to the gateway {}.", self.when(&payment.due_at))
                } else {
                    "It is due, and goes to the gateway as soon as payd gets to it.".to_owned()
                };
                let mut can = vec![wait];
                if let Some(held) = self.held {
                    can.push((held.resume.clone(), "resume sending"));
                } else if !later {
                    can.push(("payctl status".to_owned(), "see whether payd is paused"));
                }
                Standing {
                    why: vec![format!("Its {name} is to be sent: {why}.")],
                    next: vec![next],
                    can,
                }
            }
            "SENDING" => Standing {
                why: vec![format!("Its {name} is on its way to the gateway, {sent}.")],
                next: vec![
                    "The gateway's answer decides; without one, payd asks the gateway.".into(),
                ],
                can: vec![wait, show],
            },
            "ACCEPTED" => Standing {
                why: vec![format!(
                    "The gateway took {name} ({sent}) and has not decided yet."
                )],
                next: vec![looked_up.into()],
                can: vec![wait, show],
            },
            "UNKNOWN" => Standing {
                why: vec![
                    format!("Its {name} was {sent}, and nobody knows whether it was charged."),
                    "It is not charged anew, and no other payment is made, until that is known."
                        .into(),
                ],
                next: vec![looked_up.into()],
                can: vec![wait, show, resolve("succeeded"), resolve("failed")],
            },
            _ => Standing {
                why: vec![
                    format!("Its {name} was {sent}, and the gateway's word on it does not fit."),
                    "payd does not guess; it cannot decide this.".into(),
                ],
                next: vec![format!(
                    "You decide: look for the key {key} in the gateway's books."
                )],
                can: vec![show, resolve("succeeded"), resolve("failed")],
            },
        }
    }
}
