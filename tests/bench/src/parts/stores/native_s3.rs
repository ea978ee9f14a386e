//! Requests signed by `rusty-s3` and sent by `hyper-util`, with as many connections as there are requests in flight.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kvtier_servers::s3::{ACCESS_KEY, S3Server, SECRET_KEY};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tokio::runtime::Runtime;

use super::BUCKET;
use super::round::{Client, Load, MANY, Operation, Round};

/// How long a signature holds.
const VALID: Duration = Duration::from_mins(10);

pub(super) struct NativeS3 {
    runtime: Runtime,
    client: HyperClient<HttpConnector, Full<Bytes>>,
    bucket: Bucket,
    credentials: Credentials,
}

impl NativeS3 {
    pub(super) fn connect(server: &S3Server) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = HyperClient::builder(TokioExecutor::new()).build(connector);
        let endpoint = server.endpoint().parse()?;
        let bucket = Bucket::new(endpoint, UrlStyle::Path, BUCKET, "us-east-1")?;
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY);
        Ok(Self { runtime, client, bucket, credentials })
    }

    async fn send(
        &self,
        method: Method,
        url: String,
        body: Bytes,
    ) -> Result<(StatusCode, Option<u64>, hyper::body::Incoming)> {
        let request = Request::builder().method(method).uri(url).body(Full::new(body))?;
        let response = self.client.request(request).await?;
        let length = response.headers().get("content-length");
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Ok((response.status(), length, response.into_body()))
    }

    async fn put(&self, n: usize, chunk: Bytes) -> Result<()> {
        let url = self.bucket.put_object(Some(&self.credentials), &name(n)).sign(VALID);
        let (status, _, body) = self.send(Method::PUT, url.to_string(), chunk).await?;
        body.collect().await?;
        ensure!(status.is_success(), "put: {status}");
        Ok(())
    }

    async fn contains(&self, n: usize) -> Result<()> {
        let url = self.bucket.head_object(Some(&self.credentials), &name(n)).sign(VALID);
        let (status, ..) = self.send(Method::HEAD, url.to_string(), Bytes::new()).await?;
        ensure!(status.is_success(), "contains: {status}");
        Ok(())
    }

    async fn get(&self, n: usize) -> Result<()> {
        let url = self.bucket.get_object(Some(&self.credentials), &name(n)).sign(VALID);
        let (status, length, mut body) = self.send(Method::GET, url.to_string(), Bytes::new()).await?;
        ensure!(status.is_success(), "get: {status}");
        let mut chunk = Vec::with_capacity(length.unwrap_or_default() as usize);
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                chunk.extend_from_slice(&bytes);
            }
        }
        ensure!(length == Some(chunk.len() as u64), "a body is short");
        Ok(())
    }
}

fn name(n: usize) -> String {
    format!("native/{n:032x}")
}

impl Client for NativeS3 {
    fn run(&self, operation: Operation, load: Load) -> Result<Round> {
        let chunk = Bytes::from(vec![7_u8; load.size_bytes]);
        let all = load.n_chunks;
        self.runtime.block_on(async {
            match operation {
                Operation::Put => Round::of(all, load.at_once, |n| self.put(n, chunk.clone())).await,
                Operation::Contains => Round::of(all, load.at_once, |n| self.contains(n)).await,
                Operation::ContainsMany => {
                    Round::of(all.div_ceil(MANY), 1, |n| async move {
                        let some = n * MANY..all.min((n + 1) * MANY);
                        futures::future::try_join_all(some.map(|n| self.contains(n))).await.map(drop)
                    })
                    .await
                }
                Operation::Get => Round::of(all, load.at_once, |n| self.get(n)).await,
            }
        })
    }

    fn remove(&self, load: Load) -> Result<()> {
        self.runtime.block_on(async {
            for n in 0..load.n_chunks {
                let url = self.bucket.delete_object(Some(&self.credentials), &name(n)).sign(VALID);
                let (status, ..) = self.send(Method::DELETE, url.to_string(), Bytes::new()).await?;
                ensure!(status.is_success(), "remove: {status}");
            }
            Ok(())
        })
    }
}
