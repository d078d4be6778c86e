//! Keeps web pages out. A browser on this machine reaches loopback too: a page may send a bodyless POST to
//! `/v1/cutover`, or rebind its own name to 127.0.0.1. Browsers cannot hide either: the first carries a foreign `Origin`,
//! the second a `Host` that is no loopback name.

use super::answer::Failure;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Refuses requests that a foreign web page may have sent.
pub(super) async fn refuse_foreign(request: Request, next: Next) -> Response {
    match foreign(request.headers()) {
        Some(text) => Failure::client(StatusCode::FORBIDDEN, "foreign", text).into_response(),
        None => next.run(request).await,
    }
}

fn foreign(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(host) = text(header::HOST)
        && !is_loopback(host)
    {
        return Some(format!("the admin port answers to loopback names only, not to {host:?}; use 127.0.0.1 or localhost"));
    }
    let origin = text(header::ORIGIN)?;
    let own = origin.strip_prefix("http://").is_some_and(|from| Some(from) == text(header::HOST));
    (!own).then(|| format!("a web page of {origin:?} may not use the admin port"))
}

/// `localhost`, `127.x.y.z` or `[::1]`, with any port (a tunnel may change it).
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin: Option<&str>, allowed: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        assert_eq!(foreign(&headers).is_none(), allowed, "{host} {origin:?}");
    }

    #[test]
    fn only_loopback_names_and_our_own_pages() {
        check("127.0.0.1:6401", None, true);
        check("localhost:9999", None, true);
        check("[::1]:6401", None, true);
        check("127.0.0.1.evil.example:6401", None, false);
        check("evil.example:6401", None, false);
        check("127.0.0.1:6401", Some("http://127.0.0.1:6401"), true);
        check("127.0.0.1:6401", Some("http://127.0.0.1:8000"), false);
        check("127.0.0.1:6401", Some("https://evil.example"), false);
        check("127.0.0.1:6401", Some("null"), false);
    }
}
