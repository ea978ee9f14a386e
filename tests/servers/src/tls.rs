//! Certificates for the tests' servers.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A certificate authority and a server's certificate that it signed, as PEM files in a temporary folder.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes them for servers on this machine.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn make() -> anyhow::Result<Self> {
        Self::make_for(&["127.0.0.1", "::1", "localhost", "*.localhost"])
    }

    /// Makes them for servers of other names or addresses.
    ///
    /// # Errors
    /// Those of [`make`](Self::make).
    pub fn make_for(names: &[&str]) -> anyhow::Result<Self> {
        let made = Self { folder: TempDir::new().context("a folder for certificates")? };
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer_key = KeyPair::generate()?;
        let issuer_certificate = authority.self_signed(&issuer_key)?;
        let issuer = Issuer::new(authority, issuer_key);
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        std::fs::write(made.ca(), issuer_certificate.pem())?;
        std::fs::write(made.certificate(), certificate.pem())?;
        std::fs::write(made.key(), key.serialize_pem())?;
        Ok(made)
    }

    /// Returns the path of the authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// Returns the path of the server's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.path().join("cert.pem")
    }

    /// Returns the path of the server's private key.
    pub fn key(&self) -> PathBuf {
        self.path().join("key.pem")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}
