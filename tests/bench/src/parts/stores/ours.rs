//! An engine without a hot cache and with one of the backends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use kvtier::{
    BackendConfig, ChunkKey, Config, Engine, HttpScheme, NetGrant, NetHost, PortRange, SecretSource, Tiers,
    block_on,
};
use kvtier_servers::s3::{ACCESS_KEY, S3Server, SECRET_KEY};

use super::BUCKET;
use super::round::{Client, Load, MANY, Operation, Round};
use crate::bench::Bench;
use crate::engines::{backend, config, engine, specs, store};
use crate::sample::once;
use crate::tier::key;

pub(super) struct Ours {
    engine: Engine,
    tiers: Tiers,
    keys: Vec<ChunkKey>,
}

impl Ours {
    pub(super) fn redis(bench: &Bench, server: SocketAddr, load: Load) -> Result<Self> {
        let servers = server.to_string();
        let mut config =
            backend(&bench.setting, "redis", ("redis", "RedisBackend"), &[("servers", &servers)])?;
        let ports = PortRange { first: server.port(), last: server.port() };
        config.allow.net.push(NetGrant::Tcp { host: NetHost::Address(server.ip()), ports });
        Self::new(bench, config, load)
    }

    pub(super) fn s3(bench: &Bench, server: &S3Server, load: Load) -> Result<Self> {
        let endpoint = server.endpoint();
        let mut config = backend(
            &bench.setting,
            "s3",
            ("s3", "S3Backend"),
            &[("bucket", BUCKET), ("endpoint", &endpoint), ("addressing", "path")],
        )?;
        let folder = &bench.setting.scratch;
        for (name, value) in [("access_key_id", ACCESS_KEY), ("secret_access_key", SECRET_KEY)] {
            let path = folder.join(name);
            std::fs::write(&path, value)?;
            config.secrets.push((name.into(), SecretSource::File(path)));
        }
        let (host, port) = (NetHost::Address(server.addr().ip()), server.addr().port());
        config.allow.net.push(NetGrant::Http { scheme: HttpScheme::Http, host, port });
        Self::new(bench, config, load)
    }

    fn new(bench: &Bench, mut backend: BackendConfig, load: Load) -> Result<Self> {
        backend.limits.calls_in_flight_max = 1024;
        backend.limits.bytes_in_flight = 8 << 30;
        backend.limits.call_timeout = Duration::from_mins(1);
        let tiers = Tiers::only([backend.name.as_str()]);
        // Room for the retrieved chunks, and for puts in flight, which may take a quarter of the pool.
        let pool_bytes = 2 * (load.n_chunks * (load.size_bytes + 4096));
        let config = Config { local_cpu: false, ..config(&bench.setting, vec![backend], pool_bytes) };
        let keys = (0..load.n_chunks).map(key).collect();
        Ok(Self { engine: engine(config)?, tiers, keys })
    }

    pub(super) fn close(self) -> Result<()> {
        Ok(block_on(self.engine.close())?)
    }

    fn put(&self, load: Load) -> Round {
        if load.at_once > 1 {
            return Round::whole(store(&self.engine, &self.keys, load.size_bytes, &self.tiers));
        }
        let seconds = self.keys.chunks(1).map(|key| store(&self.engine, key, load.size_bytes, &self.tiers));
        Round::each(seconds.collect())
    }
}

impl Client for Ours {
    fn run(&self, operation: Operation, load: Load) -> Result<Round> {
        let (storage, tiers, keys) = (self.engine.storage(), &self.tiers, &self.keys);
        let contains = async |some: &[ChunkKey]| {
            let found = storage.contains(some, tiers).await.n_chunks;
            ensure!(found == some.len(), "{found} of {} chunks are present", some.len());
            Ok(())
        };
        match operation {
            Operation::Put => Ok(self.put(load)),
            Operation::Contains => block_on(Round::of(keys.len(), load.at_once, |n| contains(&keys[n..=n]))),
            Operation::ContainsMany => {
                let many: Vec<&[ChunkKey]> = keys.chunks(MANY).collect();
                block_on(Round::of(many.len(), 1, |n| contains(many[n])))
            }
            Operation::Get => {
                let specs = specs(keys, load.size_bytes);
                // Like a serving engine, which has looked up before. Otherwise the backend would be asked twice.
                let plan = block_on(storage.contains(&keys[..1], tiers));
                let plan = &plan;
                block_on(Round::of(keys.len(), load.at_once, |n| {
                    let spec = &specs[n..=n];
                    async move {
                        let found = storage.get(spec, tiers, Some(plan)).await;
                        ensure!(found.chunks.len() == 1, "a chunk is missing: {:?}", found.misses);
                        Ok(())
                    }
                }))
            }
        }
    }

    fn remove(&self, _: Load) -> Result<()> {
        let mut removed = Ok(());
        once(|| removed = block_on(self.engine.storage().remove(&self.keys, &self.tiers)).map(drop));
        Ok(removed?)
    }
}
