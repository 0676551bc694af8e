//! Calls that must go through a proxy or not at all.
//!
//! Guarantees: a client made for a URL here reaches it through the configured proxy, whatever `NO_PROXY` exempts, or
//! through one of the system's, and in no other way: a name that only a proxy may resolve is never resolved by us.
//!
//! It deliberately checks no address: what may be reached is for the proxy to decide.

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::{ClientOptions, Error, Outbound, ReplaceableClient, Route};

impl Outbound {
    /// The same for everything below a URL, only through a proxy. Fails if there is none for it.
    pub fn proxied(&self, url: &Url) -> Result<Self, Error> {
        match &self.client.route {
            Route::Usual(options @ ClientOptions { proxy: Some(_), .. }) => {
                Ok(Self { client: ReplaceableClient::new(Route::Proxied(options.clone()))?, ..self.clone() })
            }
            // By the same rules that the client uses.
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
