//! The host's errors of connections.

use kvtier_guest::wasip3::http::types::ErrorCode;

use crate::retry::Transient;

pub(super) fn transient(code: &ErrorCode) -> Option<Transient> {
    match code {
        ErrorCode::DnsTimeout
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => Some(Transient::TimedOut),
        // Certificates do not change from one try to the next.
        ErrorCode::TlsCertificateError => None,
        code if is_permanent(code) => None,
        _ => Some(Transient::Failed),
    }
}

/// Reports whether another attempt is useless.
pub(super) fn is_permanent(code: &ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::HttpRequestDenied
            | ErrorCode::HttpRequestMethodInvalid
            | ErrorCode::HttpRequestUriInvalid
            | ErrorCode::HttpRequestUriTooLong
            | ErrorCode::HttpRequestHeaderSectionSize(_)
            | ErrorCode::HttpRequestHeaderSize(_)
            | ErrorCode::DestinationIpProhibited
            | ErrorCode::ConfigurationError
    )
}

/// Returns the host's error in words.
pub(super) fn words(code: &ErrorCode) -> String {
    match code {
        ErrorCode::InternalError(Some(words)) => words.clone(),
        ErrorCode::DnsError(error) => {
            format!("its name cannot be resolved{}", error.rcode.as_ref().map(|rcode| format!(": {rcode}")).unwrap_or_default())
        }
        ErrorCode::DnsTimeout => "its name was not resolved in time".to_owned(),
        ErrorCode::ConnectionRefused => "connection refused".to_owned(),
        ErrorCode::ConnectionTerminated => "the connection ended".to_owned(),
        ErrorCode::ConnectionTimeout => "connecting timed out".to_owned(),
        ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => "no answer in time".to_owned(),
        ErrorCode::HttpResponseIncomplete => "the connection ended in the middle of an answer".to_owned(),
        ErrorCode::HttpRequestDenied => {
            "requests to it are not granted; grant it with allow.net".to_owned()
        }
        ErrorCode::TlsCertificateError => {
            "its certificate is not accepted: it must be for this host, in date, and signed by a known authority".to_owned()
        }
        ErrorCode::TlsProtocolError => "it does not speak TLS, or no version that is accepted".to_owned(),
        ErrorCode::TlsAlertReceived(alert) => {
            format!("TLS alert {}", alert.alert_message.as_deref().unwrap_or("without a message"))
        }
        code => format!("{code:?}"),
    }
}
