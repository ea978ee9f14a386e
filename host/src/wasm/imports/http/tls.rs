//! The certificates that HTTPS servers are checked with.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};

use crate::config::open_file;
use crate::limits::CA_FILE_BYTES_MAX;

/// Why HTTPS servers cannot be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("tls.ca_file: `{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// The file of certificates that the environment names cannot be one.
    #[error("SSL_CERT_FILE: `{}` cannot be read: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The file is not PEM, or has something other than certificates of authorities in it.
    #[error(
        "tls.ca_file: `{}`: {problem}; give the certificates of the authorities that vouch for the servers, as PEM",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Makes the client's side of TLS. It trusts only the certificates in `ca_file`; without a file, those of the system;
/// if the system has none, the bundled ones of Mozilla's program.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(path) => read(path)?,
        None => match system_file() {
            Some((path, source)) => return Err(TlsError::System { path, source }),
            None => public(),
        },
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.expect("the provider has suites for the versions that it is built with");
    Ok(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
}

fn read(path: &Path) -> Result<RootCertStore, TlsError> {
    let invalid = |problem: String| TlsError::Invalid { path: path.to_owned(), problem };
    let mut text = Vec::new();
    open_file(path)
        .and_then(|file| file.take(CA_FILE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })?;
    if text.len() as u64 > CA_FILE_BYTES_MAX {
        return Err(invalid(format!("larger than {CA_FILE_BYTES_MAX} bytes")));
    }
    // A byte order mark would hide the first line.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|error| invalid(format!("not PEM: {error}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// Returns the file of certificates that the environment names, if it is not a regular file: the library would wait as
/// it reads it.
fn system_file() -> Option<(PathBuf, io::Error)> {
    let path = PathBuf::from(std::env::var_os("SSL_CERT_FILE")?);
    let error = open_file(&path).err().filter(|error| error.kind() == io::ErrorKind::InvalidInput)?;
    Some((path, error))
}

fn public() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!("certificates that the system trusts: {error}");
    }
    let (n_added, _) = roots.add_parsable_certificates(found.certs);
    if n_added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = client_config(Some(file.path())).unwrap_err().to_string();
        error.replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn files_without_certificates_are_refused_with_what_to_give() {
        let missing = client_config(Some(Path::new("/nowhere/ca.pem"))).unwrap_err().to_string();
        assert!(
            missing.starts_with("tls.ca_file: `/nowhere/ca.pem` cannot be read: No such file"),
            "{missing}"
        );
        insta::assert_snapshot!(refusal("hello"), @"tls.ca_file: `FILE`: there is no certificate in it; give the certificates of the authorities that vouch for the servers, as PEM");
        let endless = client_config(Some(Path::new("/dev/zero"))).unwrap_err().to_string();
        insta::assert_snapshot!(endless, @"tls.ca_file: `/dev/zero` cannot be read: it is a device; give a regular file, since kvtier may read it again");
        let large = refusal(&" ".repeat(CA_FILE_BYTES_MAX as usize + 1));
        assert!(large.contains("larger than 4194304 bytes"), "{large}");
        let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert!(refusal(broken).starts_with("tls.ca_file: `FILE`: "), "{}", refusal(broken));
    }

    #[test]
    fn without_a_file_somebody_is_trusted() {
        assert!(!public().is_empty());
        client_config(None).unwrap();
    }
}
