//! The program of the server.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::refusing::Refusing;

const USAGE: &str = "\
kvtier-s3-server --root DIR --access-key KEY --secret-key KEY [options]

Serves the folders of DIR as buckets, over S3. Prints its address as its first line.

  --listen ADDRESS:PORT     where it listens; port 0 is any free one (default 127.0.0.1:0)
  --bucket NAME             makes a bucket that is missing
  --tls-cert FILE           speaks TLS, with this certificate and its chain (PEM)
  --tls-key FILE            the certificate's private key (PEM)
  --until-stdin-closes      ends when standard input does";

/// Serves until the process ends. `arguments` are those of the command line, without the program's name.
///
/// # Errors
/// If an argument is wrong, the address cannot be bound, or the root cannot be used.
pub fn serve_forever(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let options = Options::read(arguments)?;
    for bucket in &options.buckets {
        let folder = options.root.join(bucket);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    if options.until_stdin_closes {
        std::thread::spawn(|| {
            let end = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(i32::from(end.is_err()));
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

struct Options {
    root: PathBuf,
    listen: String,
    access_key: String,
    secret_key: String,
    buckets: Vec<String>,
    tls: Option<(PathBuf, PathBuf)>,
    until_stdin_closes: bool,
}

impl Options {
    fn read(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let mut arguments = arguments.into_iter();
        let (mut values, mut buckets, mut until_stdin_closes) = (HashMap::new(), Vec::new(), false);
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--until-stdin-closes" => until_stdin_closes = true,
                "--root" | "--listen" | "--access-key" | "--secret-key" | "--bucket" | "--tls-cert"
                | "--tls-key" => {
                    let value =
                        arguments.next().ok_or_else(|| anyhow!("{name}: a value is missing\n\n{USAGE}"))?;
                    if name == "--bucket" {
                        buckets.push(value);
                    } else {
                        values.insert(name, value);
                    }
                }
                _ => bail!("{name}: unknown\n\n{USAGE}"),
            }
        }
        let mut optional = |name: &str| values.remove(name);
        let tls = match (optional("--tls-cert"), optional("--tls-key")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => bail!("--tls-cert and --tls-key go together\n\n{USAGE}"),
        };
        let listen = optional("--listen");
        let mut required = |name: &str| optional(name).ok_or_else(|| anyhow!("{name} is missing\n\n{USAGE}"));
        Ok(Self {
            root: required("--root")?.into(),
            access_key: required("--access-key")?,
            secret_key: required("--secret-key")?,
            listen: listen.unwrap_or_else(|| "127.0.0.1:0".to_owned()),
            buckets,
            tls,
            until_stdin_closes,
        })
    }
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let files = FileSystem::new(&options.root);
    let files = files.map_err(|error| anyhow!("{}: {error:?}", options.root.display()))?;
    let tls = options.tls.as_ref().map(|(certificate, key)| acceptor(certificate, key)).transpose()?;
    let listener = TcpListener::bind(&options.listen).await.with_context(|| options.listen.clone())?;
    let address = listener.local_addr()?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(options.access_key, options.secret_key));
    service.set_access(Refusing::new(&options.root));
    let service = service.build();
    println!("{address}");
    std::io::stdout().flush()?;
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        // A connection that is already gone shows below.
        drop(socket.set_nodelay(true));
        let (service, tls) = (service.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => answer(socket, service).await,
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        answer(socket, service).await;
                    }
                }
            }
        });
    }
}

/// Serves one connection. Its failure is left for the client to notice.
async fn answer(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, service: S3Service) {
    let http = auto::Builder::new(TokioExecutor::new()).http1_only();
    drop(http.serve_connection(TokioIo::new(socket), service).await);
}

fn acceptor(certificate: &PathBuf, key: &PathBuf) -> anyhow::Result<TlsAcceptor> {
    let chain =
        CertificateDer::pem_file_iter(certificate).with_context(|| certificate.display().to_string())?;
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
