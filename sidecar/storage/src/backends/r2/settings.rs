//! Which Worker, and the token it asks for.

use std::fmt;

use hyper::Uri;
use hyper::header::HeaderValue;

use crate::Error;
use crate::backends::objects::{Limits, Prefix};

/// Which Worker, and the token it asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct R2Settings {
    /// Address of the Worker: `https://host`. On this machine `http://` does too.
    pub endpoint: String,
    /// The Worker's secret.
    pub token: String,
    /// Before every object's name, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Time limits.
    pub limits: Limits,
}

impl fmt::Debug for R2Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, token: _, prefix, limits } = self;
        f.debug_struct("R2Settings")
            .field("endpoint", endpoint)
            .field("prefix", prefix)
            .field("limits", limits)
            .finish_non_exhaustive()
    }
}

impl R2Settings {
    /// Settings for the Worker at `endpoint`, with no prefix.
    pub fn new(endpoint: impl Into<String>, token: impl Into<String>) -> Self {
        Self { endpoint: endpoint.into(), token: token.into(), prefix: String::new(), limits: Limits::default() }
    }

    /// Refuses what can't work, before anything is sent.
    pub fn check(&self) -> Result<(), Error> {
        Prefix::check(&self.prefix)?;
        self.authorization()?;
        self.address().map(drop)
    }

    /// The Worker's address, without a slash at its end.
    pub(super) fn address(&self) -> Result<&str, Error> {
        let address = self.endpoint.trim_end_matches('/');
        let invalid = |problem: &str| Err(Error::invalid("endpoint", format!("{:?} {problem}", self.endpoint)));
        let Ok(uri) = address.parse::<Uri>() else { return invalid("is no address") };
        if uri.path() != "/" || uri.query().is_some() {
            return invalid("has a path; the Worker is at the root of its host");
        }
        match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(_)) => Ok(address),
            (Some("http"), Some("127.0.0.1" | "localhost" | "[::1]")) => Ok(address),
            (Some("http"), Some(_)) => invalid("would send the token in the clear; use https://"),
            _ => invalid("does not begin with https://"),
        }
    }

    pub(super) fn authorization(&self) -> Result<HeaderValue, Error> {
        let value = HeaderValue::from_str(&format!("Bearer {}", self.token));
        let mut value = value.map_err(|_| Error::invalid("token", "has characters that no header may have"))?;
        if self.token.is_empty() {
            return Err(Error::invalid("token", "is empty"));
        }
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_ever_shown() {
        assert!(!format!("{:?}", R2Settings::new("https://a.example", "hidden")).contains("hidden"));
    }

    #[test]
    fn settings_that_cant_work_are_refused() {
        let refused = |change: fn(&mut R2Settings)| {
            let mut settings = R2Settings::new("https://a.example", "token");
            change(&mut settings);
            settings.check().unwrap_err()
        };
        for endpoint in ["https://a.example", "https://a.example/", "https://a.example:8443", "http://127.0.0.1:1"] {
            R2Settings::new(endpoint, "token").check().unwrap();
        }
        for wrong in
            ["", "a.example", "ftp://a.example", "https://a.example/path", "https://a.example?q", "not an address"]
        {
            let error = R2Settings::new(wrong, "token").check().unwrap_err();
            assert!(matches!(error, Error::Invalid { field: "endpoint", .. }), "{wrong}: {error}");
        }
        assert!(matches!(refused(|s| s.token.clear()), Error::Invalid { field: "token", .. }));
        assert!(matches!(refused(|s| s.token = "a\nb".into()), Error::Invalid { field: "token", .. }));
        assert!(matches!(refused(|s| s.prefix = "/a".into()), Error::Invalid { field: "prefix", .. }));
    }

    #[test]
    fn a_token_never_goes_over_the_network_in_the_clear() {
        let error = R2Settings::new("http://a.example", "token").check().unwrap_err();
        assert!(error.to_string().contains("https://"), "{error}");
    }
}
