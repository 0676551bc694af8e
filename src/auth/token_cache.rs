//! A cache of verified tokens, so that a caller that sends the same one again costs no second verification.
//!
//! Guarantees: a token is recognised by the digest of all of it and nothing else; the cache is bounded, whatever is sent.
//!
//! It deliberately does not judge whether a token is still valid, nor which of its possible callers it identifies, which
//! depends on more than the token: `auth` decides both anew each time.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;

use super::{jwt::VerifiedToken, keys::Key};
use crate::domain::Digest;

/// The size of the cache, in bytes: about ten thousand tokens of the usual size.
const SIZE_MAX: u64 = 16 * 1024 * 1024;
/// The size of an entry besides its token and callers.
const ENTRY_SIZE: usize = 1024;
/// How long a token stays cached at most. Then it is verified again, however long it is valid.
const TTL: Duration = Duration::from_hours(1);

/// The cached tokens.
#[derive(Debug)]
pub(super) struct TokenCache(Cache<Digest, Arc<CachedToken>>);

/// A token that was verified.
#[derive(Debug)]
pub(super) struct CachedToken {
    /// The index of its issuer.
    pub(super) issuer: usize,
    pub(super) key_id: String,
    /// The key that verified it.
    pub(super) key: Key,
    pub(super) proven: VerifiedToken,
    /// The indexes of the configured callers that it may identify: a search through all of them for each call would cost
    /// more the more there are.
    pub(super) callers: Vec<usize>,
    /// Length of the whole token, in bytes.
    pub(super) length: usize,
}

impl TokenCache {
    pub(super) fn new() -> Self {
        let size = |_: &Digest, token: &Arc<CachedToken>| {
            let callers = token.callers.len().saturating_mul(size_of::<usize>());
            u32::try_from(token.length.saturating_add(callers).saturating_add(ENTRY_SIZE)).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(SIZE_MAX).weigher(size).time_to_live(TTL).build())
    }

    /// The token of this digest. Whoever calls this must check whether it is still valid.
    pub(super) async fn find(&self, digest: &Digest) -> Option<Arc<CachedToken>> {
        self.0.get(digest).await
    }

    pub(super) async fn keep(&self, digest: Digest, token: Arc<CachedToken>) {
        self.0.insert(digest, token).await;
    }

    pub(super) async fn forget(&self, digest: &Digest) {
        self.0.invalidate(digest).await;
    }
}
