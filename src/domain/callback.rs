//! Callbacks: what is sent to a caller's system when an operation ends, and how far that has got.
//!
//! It deliberately does not say how a message looks or how it is sent; `api::callback` and `callbacks` do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::OperationId;

/// Where the end of an operation is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// The URL, as it was read when the change was accepted.
    pub url: String,
    /// The configured name of the destination that it belongs to.
    pub destination: String,
    /// What the caller wants to have back, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

impl Callback {
    /// The URL as it may be shown: what stands in its query may be a secret of the caller's.
    pub fn shown_url(&self) -> String {
        self.url.split_once('?').map_or_else(|| self.url.clone(), |(plain, _)| format!("{plain}?\u{2026}"))
    }
}

/// How a callback stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackState {
    /// The operation has not ended, or its end is still to be told.
    Pending,
    /// It was told.
    Delivered,
    /// It could not be told, and is not tried any more unless somebody asks for it.
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

/// What came of the attempts to deliver a callback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Attempts in vain since the operation ended, or since somebody asked to have it sent again.
    pub failures: u32,
    /// When somebody asked for that.
    pub resent_at: Option<Timestamp>,
    /// When the last attempt ended.
    pub last_at: Option<Timestamp>,
    /// The status of its answer; none if there was no answer.
    pub last_status: Option<u16>,
    /// Why it came to nothing; none if it did not.
    pub last_error: Option<String>,
    /// When it was delivered.
    pub delivered_at: Option<Timestamp>,
}

/// The name of the message about an operation's end: the same for every attempt.
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
