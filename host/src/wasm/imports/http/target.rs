//! The target of a request: scheme, host and port in one spelling.

use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use wasmtime_wasi_http::Error;

use crate::config::{HttpScheme, NetHost, without_user_parts};
use crate::wasm::policy::network::HttpTarget;

/// Returns the target of a request; `None` if it is not a valid target of HTTP.
pub(super) fn target(uri: &Uri) -> Option<HttpTarget> {
    let scheme = match uri.scheme()? {
        scheme if *scheme == Scheme::HTTP => HttpScheme::Http,
        scheme if *scheme == Scheme::HTTPS => HttpScheme::Https,
        _ => return None,
    };
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = NetHost::parse(host.strip_suffix('.').unwrap_or(host))?;
    let port = match authority.port() {
        Some(port) => port.as_str().parse().ok().filter(|port| *port != 0)?,
        None if authority.as_str().ends_with(':') => return None,
        None => scheme.default_port(),
    };
    (!matches!(host, NetHost::Network(_))).then_some(HttpTarget { scheme, host, port })
}

/// Returns a URI in the form in which it may be shown: paths and queries may have signatures, and the part before an
/// `@` a password.
pub(super) fn without_path(uri: &Uri) -> String {
    let scheme = uri.scheme().map_or("http", Scheme::as_str);
    let authority = uri.authority().map_or("", Authority::as_str);
    without_user_parts(&format!("{scheme}://{authority}")).into_owned()
}

/// Returns the URI of a request in canonical form, with its path and query.
pub(super) fn in_one_form(target: &HttpTarget, uri: &Uri) -> Result<Uri, Error> {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if !path.starts_with('/') {
        return Err(Error::HttpRequestUriInvalid);
    }
    format!("{target}{path}").parse().map_err(|_| Error::HttpRequestUriInvalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(uri: &str) -> Option<String> {
        target(&uri.parse().unwrap()).map(|target| target.to_string())
    }

    #[test]
    fn a_target_is_scheme_host_and_port_in_one_spelling() {
        for (uri, target) in [
            ("http://a.example/x?y", "http://a.example:80"),
            ("HTTPS://A.Example./", "https://a.example:443"),
            ("https://10.0.0.1:8443/", "https://10.0.0.1:8443"),
            ("http://[::1]:9/", "http://[::1]:9"),
        ] {
            assert_eq!(shown(uri).as_deref(), Some(target), "{uri}");
        }
    }

    #[test]
    fn a_uri_that_might_lead_elsewhere_is_not_a_target() {
        for uri in [
            "/path",
            "ftp://a.example/",
            "http://user@a.example/",
            "http://a.example:0/",
            "http://a.example:/",
            "http://010.0.0.1/",
            "http://2130706433/",
            "http://a..example/",
        ] {
            assert_eq!(shown(uri), None, "{uri}");
        }
    }

    #[test]
    fn what_is_shown_of_a_uri_has_no_user_and_no_query() {
        let uri: Uri = "http://bob:hunter2@a.example/b?signature=c".parse().unwrap();
        assert_eq!(without_path(&uri), "http://[hidden]@a.example");
    }

    #[test]
    fn requests_go_to_the_target_and_keep_their_path() {
        let request: Uri = "HTTP://A.example./b/c?d=e%2F".parse().unwrap();
        let uri = in_one_form(&target(&request).unwrap(), &request).unwrap();
        assert_eq!(uri.to_string(), "http://a.example:80/b/c?d=e%2F");
    }
}
