//! Behaviours between calls: after the class has answered, or when no caller waits for its answer any more.

use std::fmt::Debug;
use std::hint::black_box;
use std::time::{Duration, Instant};

use kvtier_guest::wasip2::sockets::instance_network::instance_network;
use kvtier_guest::wasip2::sockets::ip_name_lookup::resolve_addresses;
use kvtier_guest::wasip3::cli::stdout;
use kvtier_guest::wasip3::filesystem::preopens;
use kvtier_guest::wasip3::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use kvtier_guest::wit_bindgen::{spawn_local, yield_async};
use kvtier_guest::{ChunkKey, Error, info};

use crate::calls::{HOUR, is_wrong, wait};
use crate::class::Behaviour;
use crate::settings::{Op, Settings};

const MS: Duration = Duration::from_millis(1);

/// Computes for as long, by its own clock.
fn compute(time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        black_box((0..1000).fold(0_u64, |sum, n| black_box(sum.wrapping_add(n))));
    }
}

/// A behaviour that begins in one method, which is answered, and goes on in the background.
macro_rules! afterwards {
    ($(#[$doc:meta])* $name:ident after $op:ident, $settings:ident => $what:expr) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(crate) struct $name;

        impl Behaviour for $name {
            async fn first(
                &self,
                settings: &Settings,
                op: Op,
                _keys: &[ChunkKey],
            ) -> Result<(), Error> {
                if is_wrong(settings, op, Op::$op) {
                    let $settings = settings.clone();
                    spawn_local(async move {
                        // Not before the answer is out.
                        wait(50 * MS).await;
                        $what
                    });
                }
                Ok(())
            }
        }
    };
}

afterwards! {
    /// Computes for ever.
    Hog after Contains, _settings => {
        let mut n = 0_u64;
        loop {
            n = black_box(n.wrapping_add(1));
        }
    }
}

afterwards! {
    /// Blocks the instance for an hour.
    Doze after Put, _settings => {
        info!("dozing off");
        std::thread::sleep(HOUR);
    }
}

afterwards! {
    /// Computes for `ms` and awaits for a moment, for ever.
    Drudge after Contains, settings => loop {
        wait(MS).await;
        compute(Duration::from_millis(settings.wait_ms));
    }
}

afterwards! {
    /// Computes for a tenth of a millisecond and yields without waiting for anything, for ever.
    Fidget after Contains, _settings => loop {
        compute(MS / 10);
        yield_async().await;
    }
}

afterwards! {
    /// Awaits for a moment and has the host work for `ms`, for ever.
    Nag after Contains, settings => {
        let name = "x".repeat(8 << 20);
        let network = instance_network();
        loop {
            wait(MS).await;
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(settings.wait_ms) {
                drop(black_box(resolve_addresses(&network, &name)));
            }
        }
    }
}

afterwards! {
    /// Computes for `ms` and then awaits for as long as that took, `lines` times, and logs it.
    Scan after Contains, settings => {
        for _ in 0..settings.n_lines {
            let started = Instant::now();
            compute(Duration::from_millis(settings.wait_ms));
            wait(started.elapsed()).await;
        }
        info!("scanned");
    }
}

afterwards! {
    /// Hands `file` in its first directory to standard output, and logs when that has ended, and when `ms` are over.
    Pipe after Contains, settings => {
        spawn_local(async move {
            wait(Duration::from_millis(settings.wait_ms)).await;
            info!("waited");
        });
        match pipe().await {
            Ok(()) => info!("piped"),
            Err(error) => info!("not piped: {error}"),
        }
    }
}

async fn pipe() -> Result<(), String> {
    let (root, _) = preopens::get_directories().into_iter().next().ok_or("no directory")?;
    let (how, flags) = (OpenFlags::empty(), DescriptorFlags::READ);
    let file = root.open_at(PathFlags::empty(), "file".to_owned(), how, flags).await.map_err(text)?;
    let (bytes, read) = file.read_via_stream(0);
    stdout::write_via_stream(bytes).await.map_err(text)?;
    read.await.map_err(text)
}

fn text(error: impl Debug) -> String {
    format!("{error:?}")
}

/// Computes for a tenth of a millisecond and yields, for ever, and never answers.
#[derive(Default)]
pub(crate) struct Straggle;

impl Behaviour for Straggle {
    async fn first(&self, settings: &Settings, op: Op, _keys: &[ChunkKey]) -> Result<(), Error> {
        while is_wrong(settings, op, Op::Get) {
            compute(MS / 10);
            yield_async().await;
        }
        Ok(())
    }
}
