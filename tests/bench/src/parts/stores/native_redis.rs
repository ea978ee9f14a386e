//! The `redis` crate: one connection that all operations share, as its documentation recommends.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tokio::runtime::Runtime;

use super::round::{Client, Load, MANY, Operation, Round};

pub(super) struct NativeRedis {
    runtime: Runtime,
    connection: MultiplexedConnection,
}

impl NativeRedis {
    pub(super) fn connect(server: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let client = redis::Client::open(format!("redis://{server}"))?;
        // Large values take longer than the crate's half a second.
        let patience = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = runtime.block_on(client.get_multiplexed_async_connection_with_config(&patience))?;
        Ok(Self { runtime, connection })
    }
}

fn name(n: usize) -> String {
    format!("native:{n:032x}")
}

impl Client for NativeRedis {
    fn run(&self, operation: Operation, load: Load) -> Result<Round> {
        let chunk = vec![7_u8; load.size_bytes];
        let all = load.n_chunks;
        self.runtime.block_on(async {
            match operation {
                Operation::Put => {
                    Round::of(all, load.at_once, |n| {
                        let (mut connection, chunk) = (self.connection.clone(), &chunk);
                        async move { Ok(connection.set::<_, _, ()>(name(n), chunk.as_slice()).await?) }
                    })
                    .await
                }
                Operation::Contains => {
                    Round::of(all, load.at_once, |n| {
                        let mut connection = self.connection.clone();
                        async move {
                            ensure!(connection.exists::<_, bool>(name(n)).await?, "a chunk is missing");
                            Ok(())
                        }
                    })
                    .await
                }
                Operation::ContainsMany => {
                    Round::of(all.div_ceil(MANY), 1, |n| {
                        let mut connection = self.connection.clone();
                        async move {
                            let mut pipe = redis::pipe();
                            for n in n * MANY..all.min((n + 1) * MANY) {
                                pipe.exists(name(n));
                            }
                            let found: Vec<bool> = pipe.query_async(&mut connection).await?;
                            ensure!(found.into_iter().all(|found| found), "a chunk is missing");
                            Ok(())
                        }
                    })
                    .await
                }
                Operation::Get => {
                    Round::of(all, load.at_once, |n| {
                        let mut connection = self.connection.clone();
                        async move {
                            let chunk: Vec<u8> = connection.get(name(n)).await?;
                            ensure!(chunk.len() == load.size_bytes, "a chunk is missing");
                            Ok(())
                        }
                    })
                    .await
                }
            }
        })
    }

    fn remove(&self, load: Load) -> Result<()> {
        let names: Vec<String> = (0..load.n_chunks).map(name).collect();
        let mut connection = self.connection.clone();
        Ok(self.runtime.block_on(async move { connection.unlink::<_, ()>(names).await })?)
    }
}
