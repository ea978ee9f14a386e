//! Requests that the server refuses from every client. A file lists them, which tests change while the server runs.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use http::StatusCode;
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// The file below the root: an operation, a status and a code of S3 on each line, such as `PutObject 403 AccessDenied`.
const FILE: &str = ".refused";

/// Admits signed requests, except for the operations in the file.
pub(super) struct Refusing {
    file: PathBuf,
}

/// Returns the file of a server with this root.
pub(super) fn file(root: &Path) -> PathBuf {
    root.join(FILE)
}

impl Refusing {
    pub(super) fn new(root: &Path) -> Self {
        Self { file: file(root) }
    }

    fn judge(&self, operation: &str, is_signed: bool) -> S3Result<()> {
        if !is_signed {
            return Err(s3_error!(AccessDenied));
        }
        // Without the file nothing is refused.
        let lines = std::fs::read_to_string(&self.file).unwrap_or_default();
        let refused = lines.lines().find_map(|line| {
            let mut words = line.split(' ');
            let status = (words.next()? == operation).then(|| words.next()?.parse().ok())??;
            Some((StatusCode::from_u16(status).ok()?, S3ErrorCode::from_bytes(words.next()?.as_bytes())?))
        });
        let Some((status, code)) = refused else { return Ok(()) };
        let mut error = S3Error::new(code);
        error.set_status_code(status);
        Err(error)
    }
}

impl S3Access for Refusing {
    fn check<'a, 'b, 'c, 'all>(
        &'a self,
        context: &'b mut S3AccessContext<'c>,
    ) -> Pin<Box<dyn Future<Output = S3Result<()>> + Send + 'all>>
    where
        'a: 'all,
        'b: 'all,
        'c: 'all,
        Self: 'all,
    {
        let judged = self.judge(context.s3_op().name(), context.credentials().is_some());
        Box::pin(std::future::ready(judged))
    }
}
