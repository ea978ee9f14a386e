//! An S3 server, for tests and for trying out the `s3` backend. Keeps objects as files.

fn main() -> anyhow::Result<()> {
    kvtier_servers::s3::serve_forever(std::env::args().skip(1))
}
