//! Callbacks: the message that reports an operation's end to its caller's system, and the state of its delivery.
//!
//! It deliberately does not say how a message looks or how it is sent; `api::callback` and `callbacks` do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::OperationId;

/// Where the end of an operation is to be reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// The URL, as parsed when the change was accepted.
    pub url: String,
    /// The configured name of the destination that it belongs to.
    pub destination: String,
    /// JSON that the message returns to the caller unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

impl Callback {
    /// The URL for display, without its query, which may hold a secret of the caller.
    pub fn shown_url(&self) -> String {
        self.url.split_once('?').map_or_else(|| self.url.clone(), |(plain, _)| format!("{plain}?\u{2026}"))
    }
}

/// The state of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackState {
    /// The operation has not ended, or its end has not been delivered yet.
    Pending,
    /// It was delivered.
    Delivered,
    /// Delivery was given up; it is only sent again on request.
    Parked,
}

impl CallbackState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Parked];

    /// The name, the same in the store, the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Parked => "parked",
        }
    }
}

/// What has come of the attempts to deliver a callback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Failed attempts since the operation ended, or since it was last asked to be sent again.
    pub failures: u32,
    /// When it was last asked to be sent again.
    pub resent_at: Option<Timestamp>,
    /// When the last attempt ended.
    pub last_at: Option<Timestamp>,
    /// The status of the last response; none if there was none.
    pub last_status: Option<u16>,
    /// Why the last attempt failed; none if it succeeded.
    pub last_error: Option<String>,
    /// When it was delivered.
    pub delivered_at: Option<Timestamp>,
}

/// The id of the message about an operation's end: the same for every attempt.
pub fn message_id(operation: OperationId) -> String {
    operation.to_string().replacen("op_", "msg_", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_not_shown() {
        let shown = |url: &str| {
            let (url, destination) = (url.to_owned(), String::new());
            Callback { url, destination, context: None }.shown_url()
        };
        assert_eq!(shown("https://a.example/b?sig=secret?"), "https://a.example/b?\u{2026}");
        assert_eq!(shown("https://a.example/b"), "https://a.example/b");
    }

    #[test]
    fn a_message_is_named_by_its_operation() {
        let operation: OperationId = "op_01m84fmd8beaevqw474vkcvq8d".parse().unwrap();
        assert_eq!(message_id(operation), "msg_01m84fmd8beaevqw474vkcvq8d");
    }
}
