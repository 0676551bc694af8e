//! Tokens that were verified before, so that a caller who sends the same one again costs no second verification.
//!
//! Guarantees: a token is known by the digest of all of it and by nothing else; what is kept is bounded, whatever is sent.
//!
//! It deliberately does not judge whether a token still holds, nor which of the callers whom it may be it is, which depends on more
//! than the token: `auth` does both anew each time.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;

use super::{jwt::Proven, keys::Key};
use crate::domain::Digest;

/// How much is kept, in bytes: about ten thousand tokens of the usual size.
const SIZE_MAX: u64 = 16 * 1024 * 1024;
/// What an entry takes besides what its token says.
const ENTRY_SIZE: usize = 1024;
/// How long a token is known at most. It is verified again then, however long it is good for.
const TTL: Duration = Duration::from_hours(1);

/// The tokens.
#[derive(Debug)]
pub(super) struct Known(Cache<Digest, Arc<Verified>>);

/// A token that was verified.
#[derive(Debug)]
pub(super) struct Verified {
    /// The place of its issuer.
    pub(super) issuer: usize,
    pub(super) key_id: String,
    /// The key that verified it.
    pub(super) key: Key,
    pub(super) proven: Proven,
    /// The places of the configured callers whom it may be: looking through all of them for each call would cost the more
    /// the more there are.
    pub(super) callers: Vec<usize>,
    /// Of the whole token, in bytes.
    pub(super) length: usize,
}

impl Known {
    pub(super) fn new() -> Self {
        let size = |_: &Digest, token: &Arc<Verified>| {
            let callers = token.callers.len().saturating_mul(size_of::<usize>());
            u32::try_from(token.length.saturating_add(callers).saturating_add(ENTRY_SIZE)).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(SIZE_MAX).weigher(size).time_to_live(TTL).build())
    }

    /// The token of this digest. Whether it still holds is to be looked at by whoever asks.
    pub(super) async fn find(&self, digest: &Digest) -> Option<Arc<Verified>> {
        self.0.get(digest).await
    }

    pub(super) async fn keep(&self, digest: Digest, token: Arc<Verified>) {
        self.0.insert(digest, token).await;
    }

    pub(super) async fn forget(&self, digest: &Digest) {
        self.0.invalidate(digest).await;
    }
}
