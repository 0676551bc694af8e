//! Calls that go by a proxy or not at all.
//!
//! Guarantees: a client that was made for a URL here reaches it by the proxy that was given, whatever `NO_PROXY` excepts
//! from that one, or by one of the system's, and no other way: a name that only a proxy may resolve is resolved by none of us.
//!
//! It deliberately looks at no address: what may be reached is the proxy's to say.

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::{Error, Outbound, Renewable, Route, Way};

impl Outbound {
    /// The same for what lies under a URL, by a proxy only. Fails if there is none for it.
    pub fn proxied(&self, url: &Url) -> Result<Self, Error> {
        match &self.client.way {
            Route::Usual(way @ Way { proxy: Some(_), .. }) => {
                Ok(Self { client: Renewable::new(Route::Proxied(way.clone()))?, ..self.clone() })
            }
            // By the very rules of the client.
            Route::Usual(_)
                if url.as_str().parse().is_ok_and(|url| Matcher::from_system().intercept(&url).is_some()) =>
            {
                Ok(self.clone())
            }
            Route::Usual(_) | Route::Proxied(_) | Route::Direct | Route::Within(..) => {
                Err(Error::Impossible(format!("there is no proxy for {url}")))
            }
        }
    }
}
