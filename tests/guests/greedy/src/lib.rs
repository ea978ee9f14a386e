//! A class that takes exactly as much of one thing as a test asks for, to stand at a limit and to go one beyond.

mod http;

use std::cell::RefCell;
use std::io::Write;
use std::mem;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use kvtier_guest::lru::{Lru, SPARE_BYTES};
use kvtier_guest::prelude::*;
use kvtier_guest::wasip2::clocks::monotonic_clock;
use kvtier_guest::wasip2::filesystem as files_0_2;
use kvtier_guest::wasip2::io::poll::poll;
use kvtier_guest::wasip2::random::random as random_0_2;
use kvtier_guest::wasip2::sockets as sockets_0_2;
use kvtier_guest::wasip3::clocks::monotonic_clock as clock_0_3;
use kvtier_guest::wasip3::filesystem::preopens;
use kvtier_guest::wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use kvtier_guest::wasip3::random::random as random_0_3;
use kvtier_guest::wasip3::sockets::types::{IpAddressFamily, TcpSocket};
use kvtier_guest::{Level, directory, info, log};

/// Takes `config.takes`, in `get` and for `read` in `put`; how much is the lower half of the key. What works is a miss.
pub struct GreedyBackend {
    takes: String,
}

impl GreedyBackend {
    /// Takes `n` of it, and reports whether it got them.
    async fn take(&self, n: usize) -> Result<(), Error> {
        match self.takes.as_str() {
            // Pages of 64 KiB.
            "memory" if !grow_memory(n) => return Err(Error::NoSpace),
            "memory" => {}
            "index" => return fill_index(n),
            "pollables" => {
                (0..n).for_each(|_| mem::forget(monotonic_clock::subscribe_duration(u64::MAX)));
            }
            "polls" => {
                let pollable = monotonic_clock::subscribe_duration(0);
                drop(poll(&vec![&pollable; n]));
            }
            "streams" => {
                (0..n).for_each(|_| mem::forget(kvtier_guest::wasip3::wit_stream::new::<u8>()));
            }
            "random-0.2" => got(random_0_2::get_random_bytes(n as u64).len(), n)?,
            "random-0.3" => got(random_0_3::get_random_bytes(n as u64).len(), n)?,
            "lines" => (0..n).for_each(|number| info!("line {number}")),
            "line" => log(Level::Info, format_args!("{}", "x".repeat(n))),
            "lines-then-abort" => {
                (0..n).for_each(|number| info!("line {number}"));
                std::process::abort();
            }
            "stderr-then-abort" => {
                let mut stderr = std::io::stderr();
                for number in 0..n {
                    // Nothing, 1000 bytes, and a line that nobody reads.
                    written(stderr.write_all(b""))?;
                    written(writeln!(stderr, "{number:>1000}"))?;
                    println!("swallowed");
                }
                std::process::abort();
            }
            "answer" => return Err(Error::other("x".repeat(n))),
            other => match http::take(other, n).await {
                Some(taken) => return taken,
                None => return take_files(other, n).await,
            },
        }
        Ok(())
    }
}

/// Has an index of `n` chunks.
fn fill_index(n: usize) -> Result<(), Error> {
    let mut index = Lru::new(u64::MAX);
    for number in 0..n as u64 {
        let key = ChunkKey { hi: number.wrapping_mul(0x9e37_79b9_7f4a_7c15), lo: number };
        index.adopt_found(key, 1 << 16, Duration::from_millis(number), ())?;
    }
    // And what a call may need beside it.
    let mut beside = Vec::<u8>::new();
    beside
        .try_reserve_exact(SPARE_BYTES / 2)
        .map_err(|_| Error::other("nothing is left beside the index"))?;
    drop(std::hint::black_box(beside));
    Ok(())
}

/// Takes of the first granted directory, in which there are `file` and `pipe`.
async fn take_files(takes: &str, n: usize) -> Result<(), Error> {
    match takes {
        "files-0.2" => (0..n).try_for_each(|_| open_0_2("file").map(mem::forget)),
        "files-0.3" => {
            for _ in 0..n {
                mem::forget(open("file").await?);
            }
            Ok(())
        }
        "files-closed" => {
            for _ in 0..n {
                drop(open("file").await?);
            }
            Ok(())
        }
        "file-streams" => {
            for _ in 0..n {
                mem::forget(open("file").await?.read_via_stream(0));
            }
            Ok(())
        }
        "listings-0.2" => (0..n).try_for_each(|_| {
            let listing = open_0_2(".")?.read_directory().map_err(refused_0_2)?;
            mem::forget(listing);
            Ok(())
        }),
        "listings-0.3" => {
            for _ in 0..n {
                let (stream, outcome) = open(".").await?.read_directory();
                let mut outcome = Box::pin(outcome.into_future());
                // Answered already if it was refused.
                if let Some(Err(code)) = now(outcome.as_mut()) {
                    return Err(refused(code));
                }
                mem::forget((stream, outcome));
            }
            Ok(())
        }
        "sockets-0.2" => (0..n).try_for_each(|_| {
            let family = sockets_0_2::network::IpAddressFamily::Ipv4;
            let socket = sockets_0_2::tcp_create_socket::create_tcp_socket(family);
            socket.map(mem::forget).map_err(|_| Error::NoSpace)
        }),
        "sockets-0.3" => (0..n).try_for_each(|_| {
            TcpSocket::create(IpAddressFamily::Ipv4).map(mem::forget).map_err(|_| Error::NoSpace)
        }),
        "unread-write" => {
            let file = open_0_2("file")?;
            let stream = file.write_via_stream(0).map_err(refused_0_2)?;
            stream.write(&vec![0; n]).map_err(|error| Error::other(format!("{error:?}")))
        }
        "file-streams-0.2" => {
            let file = open_0_2("file")?;
            (0..n).try_for_each(|_| file.read_via_stream(0).map(mem::forget).map_err(refused_0_2))
        }
        // Whatever is at its other end.
        "pipes" => {
            for _ in 0..n {
                mem::forget(open("pipe").await?);
                mem::forget(open_0_2("pipe")?);
            }
            Ok(())
        }
        "path" => {
            let mut path = "./".repeat(n / 2);
            path.push_str(&"x"[..n % 2]);
            open(&path).await.map(drop)
        }
        other => give_up_files(other, n).await,
    }
}

/// Has the host begin `n` operations on files, and gives each up.
async fn give_up_files(takes: &str, n: usize) -> Result<(), Error> {
    match takes {
        "stats-given-up" => (0..n).try_for_each(|_| {
            let root = root()?;
            match now(pin!(root.stat_at(PathFlags::empty(), long_name()))) {
                Some(Err(code)) => Err(refused(code)),
                _ => Ok(()),
            }
        }),
        "opens-given-up" => (0..n).try_for_each(|_| match now(pin!(open(&long_name()))) {
            Some(Err(error)) => Err(error),
            _ => Ok(()),
        }),
        "syncs-given-up" => {
            let root = root()?;
            (0..n).try_for_each(|_| match now(pin!(root.sync())) {
                Some(Err(code)) => Err(refused(code)),
                _ => Ok(()),
            })
        }
        // Opened by the first call, when nothing hangs yet.
        "reads-given-up" => {
            let known = OPEN.with(|open| open.borrow().clone());
            let file = match known {
                Some(file) => file,
                None => Rc::new(open("file").await?),
            };
            OPEN.set(Some(Rc::clone(&file)));
            for _ in 0..n {
                let (mut bytes, outcome) = file.read_via_stream(0);
                {
                    let mut reading = pin!(bytes.read(Vec::with_capacity(1)));
                    if now(reading.as_mut()).is_none() {
                        // The host begins when the guest waits.
                        clock_0_3::wait_for(1_000_000).await;
                    }
                }
                drop(bytes);
                outcome.await.map_err(refused)?;
            }
            Ok(())
        }
        "paths-given-up" => (0..n).try_for_each(|number| {
            let path = format!("{GRANTED}/{}x", long_name());
            let begun = match number % 4 {
                0 => now(pin!(directory::read(&path))).map(|read| read.map(drop)),
                1 => now(pin!(directory::list(&path, ""))).map(|listed| listed.map(drop)),
                2 => now(pin!(directory::remove(&path))).map(|removed| removed.map(drop)),
                _ => now(pin!(directory::write(&format!("{path}/x"), *b"x"))),
            };
            begun.unwrap_or(Ok(()))
        }),
        "writes-given-up" => {
            let path = format!("{GRANTED}/given-up");
            now(pin!(directory::write(&path, vec![7; n]))).unwrap_or(Ok(()))
        }
        "direct-names" => {
            let name = "x".repeat(n);
            let root = root()?;
            match now(pin!(kvtier_guest::try_direct(&root, name))) {
                Some(tried) => tried,
                None => Ok(()),
            }
        }
        other => Err(Error::invalid_config("takes", other)),
    }
}

/// The guest's path of the granted directory.
const GRANTED: &str = "/data";

thread_local! {
    static OPEN: RefCell<Option<Rc<Descriptor>>> = const { RefCell::new(None) };
}

/// A name of 4,000 bytes.
fn long_name() -> String {
    "x/".repeat(2_000)
}

fn root() -> Result<Descriptor, Error> {
    let (root, _) = preopens::get_directories().into_iter().next().ok_or(Error::Unsupported)?;
    Ok(root)
}

fn now<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

async fn open(path: &str) -> Result<Descriptor, Error> {
    let (how, flags) = (OpenFlags::empty(), DescriptorFlags::READ);
    root()?.open_at(PathFlags::empty(), path.to_owned(), how, flags).await.map_err(refused)
}

fn open_0_2(path: &str) -> Result<files_0_2::types::Descriptor, Error> {
    use files_0_2::types::{DescriptorFlags, OpenFlags, PathFlags};
    let (root, _) = files_0_2::preopens::get_directories().into_iter().next().ok_or(Error::Unsupported)?;
    let flags =
        if path == "." { DescriptorFlags::READ } else { DescriptorFlags::READ | DescriptorFlags::WRITE };
    root.open_at(PathFlags::empty(), path, OpenFlags::empty(), flags).map_err(refused_0_2)
}

fn refused(code: ErrorCode) -> Error {
    match code {
        ErrorCode::InsufficientMemory => Error::NoSpace,
        ErrorCode::NameTooLong => Error::invalid_argument("the path"),
        ErrorCode::Other(Some(words)) if words.starts_with("would-block") => Error::unavailable(words),
        code => Error::other(format!("{code:?}")),
    }
}

fn refused_0_2(code: files_0_2::types::ErrorCode) -> Error {
    match code {
        files_0_2::types::ErrorCode::InsufficientMemory => Error::NoSpace,
        code => Error::other(format!("{code:?}")),
    }
}

#[cfg(target_arch = "wasm32")]
fn grow_memory(n_pages: usize) -> bool {
    std::arch::wasm32::memory_grow::<0>(n_pages) != usize::MAX
}

/// Guests run nowhere else, but are checked with the rest of the workspace.
#[cfg(not(target_arch = "wasm32"))]
fn grow_memory(_n_pages: usize) -> bool {
    false
}

fn got(found: usize, wanted: usize) -> Result<(), Error> {
    if found == wanted { Ok(()) } else { Err(Error::other(format!("{found} of {wanted} bytes"))) }
}

fn written(outcome: std::io::Result<()>) -> Result<(), Error> {
    outcome.map_err(|error| Error::other(error.to_string()))
}

impl StorageBackend for GreedyBackend {
    fn new(init: Init) -> Result<Self, Error> {
        init.only(&["takes"])?;
        Ok(Self { takes: init.get("takes").unwrap_or_default().to_owned() })
    }

    async fn contains(&self, _keys: &[ChunkKey], pinning: Pinning) -> Result<u32, Error> {
        if pinning == Pinning::Pin {
            return Err(Error::Unsupported);
        }
        Ok(0)
    }

    async fn put(&self, keys: &[ChunkKey], data: &Sources) -> Vec<Result<(), Error>> {
        let read = |(key, index): (&ChunkKey, u32)| {
            if self.takes == "read" { data.read(index, 0, key.lo).map(drop) } else { Ok(()) }
        };
        keys.iter().zip(0..).map(read).collect()
    }

    async fn get(&self, keys: &[ChunkKey], _into: &Sinks) -> Vec<Result<Option<u64>, Error>> {
        let mut taken = Vec::new();
        for key in keys {
            taken.push(self.take(key.lo as usize).await.map(|()| None));
        }
        taken
    }
}

kvtier_guest::export!(GreedyBackend);
