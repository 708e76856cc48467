//! The simulator: a gateway without money, in process, that behaves as the payment method says.
//!
//! It keeps nothing: what it answers is a function of the payment, of which send it is, and of how
//! long ago that was. So it remembers every charge over restarts, as a real gateway does, and the
//! same key always meets the same fate. It must never be taken for one that charges.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::application::ports::{BoxFuture, ChargeRequest, Clock, Gateway, Probe};
use crate::domain::{Failure, FailureKind, Finding, Outcome};

/// How long `sim:slow` takes.
const SLOW: Duration = Duration::from_secs(2);

/// How long after the send `sim:pending` is decided.
const PENDING: Duration = Duration::from_secs(2);

/// What happens to payments that do not ask for anything special. Rates are in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// How long every answer takes.
    pub latency: Duration,
    /// Declined for good.
    pub decline_ppm: u32,
    /// Charged, and no answer.
    pub timeout_ppm: u32,
    /// Never arrived, and no answer.
    pub lost_ppm: u32,
}

/// See the module.
pub struct Simulator {
    clock: Arc<dyn Clock>,
    weather: Weather,
}

/// What becomes of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Approve,
    Decline(&'static str, &'static str, bool),
    Slow,
    Pending,
    ChargeAndKeepSilent,
    NeverArrive,
}

impl Simulator {
    /// A simulator in this weather.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, weather: Weather) -> Self {
        Self { clock, weather }
    }

    fn fate(&self, request: &ChargeRequest) -> Fate {
        let soft = Fate::Decline(
            "insufficient_funds",
            "The simulator has no funds for this.",
            true,
        );
        match request.method.as_deref() {
            Some("sim:approve") => Fate::Approve,
            Some("sim:decline") => {
                Fate::Decline("do_not_honor", "The simulator declines this.", false)
            }
            Some("sim:insufficient_funds") => soft,
            Some("sim:decline-then-approve") if request.attempt == 1 => soft,
            Some("sim:decline-then-approve") => Fate::Approve,
            Some("sim:slow") => Fate::Slow,
            Some("sim:pending") => Fate::Pending,
            Some("sim:timeout") => Fate::ChargeAndKeepSilent,
            Some("sim:lost") => Self::lost(request),
            Some(other) if other.starts_with("sim:") => Fate::Decline(
                "unknown_payment_method",
                "The simulator does not know this sim: method.",
                false,
            ),
            _ => self.by_weather(request),
        }
    }

    /// Only the first send is lost; the gateway has every later one.
    const fn lost(request: &ChargeRequest) -> Fate {
        if request.send <= 1 {
            Fate::NeverArrive
        } else {
            Fate::Approve
        }
    }

    /// Drawn from the key, so that a payment meets the same fate on every send.
    fn by_weather(&self, request: &ChargeRequest) -> Fate {
        let weather = &self.weather;
        let digest = Sha256::digest(request.key.as_str().as_bytes());
        let draw = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
        let ppm = (u64::from(draw) * 1_000_000) >> 32;
        let mut upto = u64::from(weather.decline_ppm);
        if ppm < upto {
            return Fate::Decline(
                "do_not_honor",
                "The simulator's weather declines this.",
                false,
            );
        }
        upto += u64::from(weather.timeout_ppm);
        if ppm < upto {
            return Fate::ChargeAndKeepSilent;
        }
        upto += u64::from(weather.lost_ppm);
        if ppm < upto {
            Self::lost(request)
        } else {
            Fate::Approve
        }
    }

    async fn charge(&self, request: &ChargeRequest) -> Outcome {
        let fate = self.fate(request);
        let takes = if fate == Fate::Slow {
            SLOW
        } else {
            Duration::ZERO
        } + self.weather.latency;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        match fate {
            Fate::Approve | Fate::Slow => Outcome::Approved {
                reference: Some(reference(request)),
            },
            Fate::Decline(code, message, retryable) => Outcome::Declined {
                failure: failure(code, message, retryable),
                retry_after: None,
            },
            Fate::Pending => Outcome::Accepted {
                reference: Some(reference(request)),
                reason: None,
            },
            Fate::ChargeAndKeepSilent | Fate::NeverArrive => std::future::pending().await,
        }
    }

    async fn lookup(&self, request: &ChargeRequest) -> Finding {
        if !self.weather.latency.is_zero() {
            tokio::time::sleep(self.weather.latency).await;
        }
        // Looked up and never claimed: a store that was restored from a backup asks so.
        if request.send == 0 {
            return Finding::NotFound;
        }
        match self.fate(request) {
            Fate::Pending if self.clock.now().since(request.sent_at) < PENDING => {
                Finding::Pending {
                    reference: Some(reference(request)),
                }
            }
            Fate::Approve | Fate::Slow | Fate::ChargeAndKeepSilent | Fate::Pending => {
                Finding::Approved {
                    reference: Some(reference(request)),
                }
            }
            Fate::Decline(code, message, retryable) => Finding::Declined {
                failure: failure(code, message, retryable),
                retry_after: None,
            },
            Fate::NeverArrive => Finding::NotFound,
        }
    }
}

impl Gateway for Simulator {
    fn name(&self) -> &str {
        "simulator"
    }

    fn lookup_lag(&self) -> Duration {
        Duration::ZERO
    }

    fn charge<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Outcome> {
        Box::pin(self.charge(request))
    }

    fn lookup<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Finding> {
        Box::pin(self.lookup(request))
    }

    fn probe(&self) -> BoxFuture<'_, Probe> {
        Box::pin(async { Probe::Usable })
    }
}

fn reference(request: &ChargeRequest) -> String {
    let key = request.key.as_str();
    format!("sim_{}", key.rsplit('_').next().unwrap_or(key))
}

fn failure(code: &str, message: &str, retryable: bool) -> Failure {
    Failure {
        kind: FailureKind::Declined,
        code: code.to_owned(),
        message: Some(message.to_owned()),
        retryable,
    }
}
