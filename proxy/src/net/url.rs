//! `redis://[user:pass@]host:port[/]` and `rediss://`, parsed once; mistakes are told without repeating the credentials.

use crate::secret::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a server is and as whom to talk to it. Empty ([`ServerUrl::is_set`] is false) until configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerUrl {
    /// `rediss`.
    pub tls: bool,
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// Port; 6379 when the URL names none.
    pub port: u16,
    /// Percent-decoded user; empty when there is none.
    pub username: String,
    /// Percent-decoded password; empty when there is none.
    pub password: Secret,
}

impl ServerUrl {
    /// Whether a URL was given at all.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.host.is_empty()
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        join(&self.host, self.port)
    }

    /// Parses a URL; the empty text is the unset URL.
    ///
    /// # Errors
    /// One sentence that says what to write instead, without any part of the credentials.
    pub fn parse(text: &str) -> Result<ServerUrl, String> {
        if text.is_empty() {
            return Ok(ServerUrl::default());
        }
        let url = url::Url::parse(text).map_err(|error| format!("not a URL ({error}); {SHAPE}"))?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(format!("only redis:// and rediss:// are known; {SHAPE}")),
        };
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("no host; {SHAPE}"));
        }
        if !matches!(url.path(), "" | "/" | "/0") {
            return Err("names a database or a path; leave it out, because every database is carried".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("has a ? or # part; {SHAPE}"));
        }
        let username = decode(url.username())?;
        let password = Secret::new(decode(url.password().unwrap_or_default())?);
        if !username.is_empty() && password.is_empty() && url.password().is_some() {
            return Err("has a user and an empty password; leave the colon out and set password_file".into());
        }
        Ok(ServerUrl { tls, host: decode(host)?, port: url.port().unwrap_or(DEFAULT_PORT), username, password })
    }
}

impl<'de> Deserialize<'de> for ServerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        ServerUrl::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Serialize for ServerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.is_set() {
            return serializer.serialize_str("");
        }
        let scheme = if self.tls { "rediss" } else { "redis" };
        let credentials = match (self.username.is_empty(), self.password.is_empty()) {
            (true, true) => String::new(),
            (false, true) => format!("{}@", self.username),
            (_, false) => format!("{}:[redacted]@", self.username),
        };
        serializer.serialize_str(&format!("{scheme}://{credentials}{}", self.address()))
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(super) fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Percent-decoding of a URL part.
fn decode(text: &str) -> Result<String, String> {
    const BAD: &str = "has a % that is not followed by two hexadecimal digits, or text that is not UTF-8";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok()).ok_or(BAD)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| BAD)?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| BAD.into())
}

const DEFAULT_PORT: u16 = 6379;
const SHAPE: &str = "write redis://[user:password@]host:port or rediss://..., with special characters of the password percent-encoded";

#[cfg(test)]
mod tests {
    use super::ServerUrl;

    fn check(text: &str, expect: (bool, &str, u16, &str, &str)) {
        let url = ServerUrl::parse(text).unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port, url.username.as_str(), url.password.expose()), expect, "{text}");
    }

    #[test]
    fn every_accepted_shape() {
        check("redis://127.0.0.1:6379", (false, "127.0.0.1", 6379, "", ""));
        check("redis://cache", (false, "cache", 6379, "", ""));
        check("redis://cache:7000/", (false, "cache", 7000, "", ""));
        check("redis://cache:7000/0", (false, "cache", 7000, "", ""));
        check("rediss://user:p%40ss%2f@cache.example:10000", (true, "cache.example", 10000, "user", "p@ss/"));
        check("redis://:only@h:1", (false, "h", 1, "", "only"));
        check("redis://app@h:1", (false, "h", 1, "app", ""));
        check("redis://[::1]:6380", (false, "::1", 6380, "", ""));
        assert_eq!(ServerUrl::parse("redis://[::1]:6380").unwrap().address(), "[::1]:6380");
        assert!(!ServerUrl::parse("").unwrap().is_set());
    }

    #[test]
    fn every_mistake_is_told_without_the_credentials() {
        for text in [
            "http://u:hunter2@h",
            "redis://u:hunter2@h:99999",
            "redis://u:hunter2@h/3",
            "redis://u:hunter2@h?x=hunter2",
            "redis://u:hunter2%zz@h",
            "redis://",
            "u:hunter2@h",
        ] {
            let error = ServerUrl::parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn printing_hides_the_password() {
        let url = ServerUrl::parse("rediss://user:hunter2@h:1").unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
        assert_eq!(serde_json::to_string(&url).unwrap(), "\"rediss://user:[redacted]@h:1\"");
    }
}
