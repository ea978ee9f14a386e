//! `redis-server` on loopback: one server, or a cluster. Dropping the handle kills the processes.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
pub use redis::{Commands, Connection, cmd};
use redis::{ConnectionInfo, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PROGRAM: &str = "redis-server";
const SLOTS: u16 = 16_384;
/// How many ports to try: another process may take one before the server does.
const PORTS_TRIED: usize = 10;
/// How long a server or a cluster may take to be ready, on a busy machine.
const READY_MAX: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(5);
/// The time after which a node counts as failed, in a cluster that has replicas.
const NODE_TIMEOUT_MS: u64 = 1_000;

/// Options of a server.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// The password of the default user.
    pub password: Option<String>,
    /// Users in Redis's syntax: `alice on >secret ~* +@all`.
    pub users: Vec<String>,
    /// The limit `maxmemory`, in bytes, and its policy: `noeviction`, `allkeys-lru` and so on.
    pub memory: Option<(u64, &'static str)>,
}

/// A server without persistence.
#[derive(Debug)]
pub struct Redis {
    options: RedisOptions,
    server: Server,
}

/// A cluster: masters that share the slots, each with replicas.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Server>,
    n_masters: usize,
}

/// A process, and what is needed to start it again.
#[derive(Debug)]
struct Server {
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
    process: Option<Child>,
}

/// Reports whether tests can use Redis. If the environment variable `KVTIER_TESTS_WITHOUT` lists `redis`, they do
/// without it, and standard error says that `test` is not tested.
pub fn available(test: &str) -> bool {
    let without = std::env::var("KVTIER_TESTS_WITHOUT").unwrap_or_default();
    let available = !without.split(',').any(|name| name.trim() == "redis");
    if !available {
        // Bypasses the capture of the test's output, so that this does not look like a success.
        let notice = format!("NOT TESTED: {test}: KVTIER_TESTS_WITHOUT has redis\n");
        drop(std::io::stderr().write_all(notice.as_bytes()));
    }
    available
}

impl Redis {
    /// Starts a server on a free port, and waits until it answers.
    ///
    /// # Errors
    /// There is no `redis-server`, or it does not start.
    pub fn start(options: RedisOptions) -> Result<Self> {
        let mut arguments = Vec::new();
        let mut set = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        if let Some(password) = &options.password {
            set(&["--requirepass", password]);
        }
        for user in &options.users {
            set(&["--user"]);
            set(&user.split_whitespace().collect::<Vec<_>>());
        }
        if let Some((bytes, policy)) = options.memory {
            set(&["--maxmemory", &bytes.to_string(), "--maxmemory-policy", policy]);
        }
        let server = Server::start(&arguments)?;
        let redis = Self { options, server };
        redis.wait_until_ready()?;
        Ok(redis)
    }

    /// Returns the address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again after [`kill`](Self::kill): on the same port, and empty.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.server.kill();
        self.server.spawn()?;
        ensure!(self.server.has_port()?, "another process has the port: {}", self.server.said());
        self.wait_until_ready()
    }

    /// Pauses it, with its connections open.
    pub fn pause(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Resumes it.
    pub fn resume(&self) {
        self.server.signal(Signal::CONT);
    }

    /// Changes a setting while it runs, as `CONFIG SET` does.
    ///
    /// # Errors
    /// Those of the client.
    pub fn configure(&self, setting: &str, value: &str) -> Result<()> {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg(setting).arg(value);
        Ok(set.query(&mut self.client()?)?)
    }

    /// Makes every snapshot fail, as on a full disk. From then on the server refuses writes.
    ///
    /// # Errors
    /// The folder cannot be removed, or the server does not notice.
    pub fn break_snapshots(&self) -> Result<()> {
        std::fs::remove_dir_all(self.server.directory.path())?;
        self.configure("save", "3600 1")?;
        // It may report the failure at once.
        drop(redis::cmd("BGSAVE").query::<String>(&mut self.client()?));
        wait("a snapshot has failed", || {
            let info: String = redis::cmd("INFO").arg("persistence").query(&mut self.client()?)?;
            ensure!(info.contains("rdb_last_bgsave_status:err"), "{info}");
            Ok(())
        })
    }

    /// Connects to it as the default user.
    ///
    /// # Errors
    /// Those of the client.
    pub fn client(&self) -> Result<Connection> {
        connect(self.addr(), self.options.password.as_deref())
    }

    fn wait_until_ready(&self) -> Result<()> {
        wait("the server answers", || {
            redis::cmd("PING").query::<String>(&mut self.client()?)?;
            Ok(())
        })
    }
}

impl RedisCluster {
    /// Starts masters and replicas of each, and waits until all slots are served and all replicas are in step.
    ///
    /// # Errors
    /// There is no `redis-server`, or it does not start.
    pub fn start(n_masters: usize, n_replicas_each: usize) -> Result<Self> {
        let arguments = |bus: u16| {
            let words = ["--cluster-enabled", "yes"];
            let more =
                ["--cluster-port", &bus.to_string(), "--repl-diskless-sync-delay", "0"].map(str::to_owned);
            words.into_iter().map(str::to_owned).chain(more).collect::<Vec<_>>()
        };
        let mut nodes = Vec::new();
        for _ in 0..n_masters * (1 + n_replicas_each) {
            // Another process may have taken the port of its bus.
            let node = Server::start(&arguments(free_port()?));
            nodes.push(node.or_else(|_| Server::start(&arguments(free_port()?)))?);
        }
        let cluster = Self { nodes, n_masters };
        cluster.join().context("making a cluster")?;
        Ok(cluster)
    }

    /// Returns the addresses of the nodes: the masters before their replicas.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Server::addr).collect()
    }

    /// Connects to a node.
    ///
    /// # Errors
    /// Those of the client.
    pub fn client(&self, node: usize) -> Result<Connection> {
        connect(self.nodes[node].addr(), None)
    }

    /// Kills a node without warning.
    pub fn kill_node(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Returns the id that a node has in the cluster.
    ///
    /// # Errors
    /// Those of the client.
    pub fn node_id(&self, node: usize) -> Result<String> {
        self.ask(node, &["MYID"])
    }

    /// Waits until a live node sees all slots served.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_whole(&self, node: usize) -> Result<()> {
        wait("the cluster is whole", || {
            let info: String = self.ask(node, &["INFO"])?;
            ensure!(info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384"), "{info}");
            Ok(())
        })
    }

    fn join(&self) -> Result<()> {
        let first = &self.nodes[0];
        for index in 0..self.nodes.len() {
            self.wait_until_ready(index)?;
            self.ask::<()>(index, &["SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
            if index < self.n_masters {
                let bound = |n: usize| usize::from(SLOTS) * n / self.n_masters;
                let (first, last) = (bound(index).to_string(), (bound(index + 1) - 1).to_string());
                self.ask::<()>(index, &["ADDSLOTSRANGE", &first, &last])?;
            }
            if index > 0 {
                let [port, bus] = [first.port.to_string(), first.bus_port().to_owned()];
                self.ask::<()>(index, &["MEET", "127.0.0.1", &port, &bus])?;
            }
        }
        for index in self.n_masters..self.nodes.len() {
            let master = self.node_id((index - self.n_masters) % self.n_masters)?;
            // Fails until it knows its master.
            wait("a replica knows its master", || self.ask::<()>(index, &["REPLICATE", &master]))?;
        }
        for index in 0..self.nodes.len() {
            self.wait_until_whole(index)?;
            if index >= self.n_masters {
                wait("a replica is in step", || {
                    let info: String =
                        redis::cmd("INFO").arg("replication").query(&mut self.client(index)?)?;
                    ensure!(info.contains("master_link_status:up"), "{info}");
                    Ok(())
                })?;
            }
            let n_nodes = self.nodes.len();
            wait("all nodes know each other", || {
                let info: String = self.ask(index, &["INFO"])?;
                ensure!(info.contains(&format!("cluster_known_nodes:{n_nodes}\r\n")), "{info}");
                Ok(())
            })?;
        }
        if self.nodes.len() > self.n_masters {
            // Not earlier: this time also limits joining.
            for index in 0..self.nodes.len() {
                let mut set = redis::cmd("CONFIG");
                set.arg("SET").arg("cluster-node-timeout").arg(NODE_TIMEOUT_MS);
                set.query::<()>(&mut self.client(index)?)?;
            }
        }
        Ok(())
    }

    fn wait_until_ready(&self, node: usize) -> Result<()> {
        wait("a node answers", || {
            redis::cmd("PING").query::<String>(&mut self.client(node)?)?;
            Ok(())
        })
    }

    fn ask<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> Result<T> {
        Ok(redis::cmd("CLUSTER").arg(words).query(&mut self.client(node)?)?)
    }
}

impl Server {
    fn start(arguments: &[String]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut server = Self { port: 0, arguments: arguments.to_vec(), directory, process: None };
        for _ in 0..PORTS_TRIED {
            server.port = free_port()?;
            server.spawn()?;
            if server.has_port()? {
                return Ok(server);
            }
        }
        bail!("{PROGRAM} does not start: {}", server.said())
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::create(self.directory.path().join("log"))?;
        let mut command = Command::new(PROGRAM);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--daemonize", "no"]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(self.directory.path());
        command.args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().with_context(|| {
            format!("{PROGRAM} cannot be started; install it with `apt-get install redis-server`")
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until the server listens. Returns `false` if it ended instead, as it does if another process has the port.
    fn has_port(&mut self) -> Result<bool> {
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline {
            if let Some(process) = &mut self.process
                && process.try_wait()?.is_some()
            {
                return Ok(false);
            }
            if self.said().contains("Ready to accept connections") {
                return Ok(true);
            }
            thread::sleep(POLL);
        }
        bail!("{PROGRAM} does not come up: {}", self.said())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    fn bus_port(&self) -> &str {
        let at = self.arguments.iter().position(|word| word == "--cluster-port");
        at.and_then(|at| self.arguments.get(at + 1)).map_or("", String::as_str)
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            // It may have ended.
            kill_process(Pid::from_child(process), signal).ok();
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A stopped process can be killed too.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn connect(addr: SocketAddr, password: Option<&str>) -> Result<Connection> {
    let login = password.map_or(String::new(), |password| format!(":{password}@"));
    let info: ConnectionInfo = format!("redis://{login}{addr}/").parse()?;
    Ok(redis::Client::open(info)?.get_connection()?)
}

/// Tries until it works, for a bounded time.
fn wait(what: &str, mut works: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        match works() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("timed out: {what}")));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Commands, Redis, RedisCluster, RedisOptions, available};

    #[test]
    fn a_server_is_started_killed_restarted_and_stopped() {
        if !available("a_server_is_started_killed_restarted_and_stopped") {
            return;
        }
        let mut redis = Redis::start(RedisOptions::default()).unwrap();
        let () = redis.client().unwrap().set("a", 1).unwrap();
        redis.kill();
        assert!(redis.client().is_err());
        redis.restart().unwrap();
        assert_eq!(redis.client().unwrap().get::<_, Option<i64>>("a").unwrap(), None);
        redis.pause();
        redis.resume();
        let () = redis.client().unwrap().set("a", 2).unwrap();
        redis.pause();
        // Dropping it ends it anyway.
    }

    #[test]
    fn users_passwords_and_memory_are_those_that_were_asked_for() {
        if !available("users_passwords_and_memory_are_those_that_were_asked_for") {
            return;
        }
        let options = RedisOptions {
            password: Some("secret".into()),
            users: vec!["alice on >wonderland ~* +get".into()],
            memory: Some((4 << 20, "noeviction")),
        };
        let redis = Redis::start(options).unwrap();
        let mut client = redis.client().unwrap();
        let full =
            client.set::<_, _, ()>("a", vec![0_u8; 8 << 20]).and_then(|()| client.set::<_, _, ()>("b", 1));
        assert!(full.unwrap_err().to_string().contains("maxmemory"));
        let url = format!("redis://alice:wonderland@{}/", redis.addr());
        let mut alice = redis::Client::open(url).unwrap().get_connection().unwrap();
        assert!(alice.get::<_, Option<i64>>("nothing").unwrap().is_none());
        assert!(alice.del::<_, ()>("a").is_err());
        assert!(super::connect(redis.addr(), Some("wrong")).is_err());
    }

    #[test]
    fn a_cluster_survives_the_death_of_a_master_with_a_replica() {
        if !available("a_cluster_survives_the_death_of_a_master_with_a_replica") {
            return;
        }
        let mut cluster = RedisCluster::start(3, 1).unwrap();
        assert_eq!(cluster.addrs().len(), 6);
        cluster.kill_node(1);
        super::wait("another takes its place", || {
            let slots: String = cluster.ask(0, &["NODES"])?;
            anyhow::ensure!(slots.contains("fail"), "{slots}");
            cluster.wait_until_whole(0)
        })
        .unwrap();
    }
}
