//! The parent: kills, examines, restarts and compares, repeatedly.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use kvtier::tier::{Sealer, TRAILER_BYTES};

use crate::chunks::{FILLER_BYTES, N_CHUNKS, key, sealer};
use crate::folder::{Examined, check_strays, examine, plant_strays};
use crate::journal::{Known, Line, apply};
use crate::process::{Moment, Running};
use crate::random::Random;
use crate::report::Report;
use crate::{Args, Backend};

/// Less than all chunks need, so that the backend evicts.
const TIGHT_BYTES: u64 = 12 << 20;

/// Lines of a child after which it is killed, at most.
const LINES_MAX: u64 = 150;

/// The longest pause between that line and the kill. A large chunk is written in less.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// One restart in this many is followed by filling the directory.
const RESTARTS_PER_FILL: u32 = 20;

/// A directory on which processes are killed, and what is known of it.
struct Place {
    directory: PathBuf,
    log: PathBuf,
    capacity: Option<u64>,
    known: Vec<Known>,
    /// The content of the disk.
    examined: Examined,
    restarts: u32,
}

impl Place {
    /// Reports whether this many bytes exceed the capacity, as after a child that was killed before it had counted
    /// them.
    fn is_over(&self, chunk_bytes: u64) -> bool {
        self.capacity.is_some_and(|capacity| chunk_bytes > capacity)
    }
}

struct Harness {
    backend: Backend,
    sealer: Sealer,
    random: Random,
    /// How long a child takes to open.
    opens_in: Duration,
    report: Report,
}

/// Kills the given number of processes, and prints what was found.
///
/// # Errors
/// The first deviation. The directories are then kept.
pub(crate) fn run(args: &Args) -> Result<()> {
    let seed = args.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
    });
    println!("seed: {seed}");
    let home =
        tempfile::Builder::new().prefix("kvtier-crash-").tempdir().context("cannot make a directory")?;
    let place = |(name, capacity): (&str, Option<u64>)| -> Result<Place> {
        let directory = home.path().join(name);
        plant_strays(&directory)?;
        let log = home.path().join(format!("{name}.log"));
        let known = vec![Known::Absent; N_CHUNKS as usize];
        Ok(Place { directory, log, capacity, known, examined: Examined::default(), restarts: 0 })
    };
    let tight = Some(TIGHT_BYTES).filter(|_| args.backend == Backend::Fs);
    let mut places = [place(("roomy", None))?, place(("tight", tight))?];
    let mut harness = Harness {
        backend: args.backend,
        sealer: sealer(),
        random: Random::new(seed),
        opens_in: Duration::ZERO,
        report: Report::default(),
    };
    let outcome = harness.kill_all(&mut places, args.kills);
    if let Err(error) = outcome {
        let n_kills = harness.report.kills;
        println!("{}", harness.report);
        let kept = home.keep();
        return Err(error.context(format!("after kill {n_kills} of seed {seed}, see {}", kept.display())));
    }
    println!("{}", harness.report);
    Ok(())
}

impl Harness {
    fn kill_all(&mut self, places: &mut [Place], n_kills: u32) -> Result<()> {
        let started = Instant::now();
        let bar = ProgressBar::new(n_kills.into());
        let template = "{elapsed_precise} {bar:32} {pos}/{len} kills, {msg}, {eta} left";
        bar.set_style(ProgressStyle::with_template(template)?);
        for place in &mut *places {
            // The first one may have to compile.
            self.restart(place, false)?;
            self.report = Report::default();
        }
        for _ in 0..n_kills {
            let place = &mut places[self.random.below(2) as usize];
            self.kill(place)?;
            // Without a restart, the next child recovers what two have left, and may be killed while it does.
            if self.random.below(4) > 0 {
                self.restart(place, place.restarts % RESTARTS_PER_FILL == RESTARTS_PER_FILL - 1)?;
            }
            bar.inc(1);
            let Report { files_checked, bytes_checked, torn, .. } = &self.report;
            bar.set_message(format!(
                "{files_checked} files and {} MiB checked, {torn} torn",
                bytes_checked >> 20
            ));
        }
        for place in places {
            self.restart(place, true)?;
        }
        self.report.took = started.elapsed();
        bar.finish_and_clear();
        Ok(())
    }

    /// Starts a child, kills it, and examines the directory.
    fn kill(&mut self, place: &mut Place) -> Result<()> {
        let random = &mut self.random;
        let mut random_time = |max: Duration| max.mul_f64(random.below(1 << 20) as f64 / f64::from(1 << 20));
        let early = Moment::AfterStart(random_time(self.opens_in * 5 / 4));
        let pause = random_time(PAUSE_MAX);
        let moment = match random.below(4) {
            0 => early,
            _ => Moment::AfterLine(1 + random.below(LINES_MAX) as usize, pause),
        };
        let seed = random.next();
        let child =
            Running::start(&self.arguments("load", place, &["--seed", &seed.to_string()]), &place.log)?;
        let lines = child.kill_at(moment)?;
        self.report.kills += 1;
        self.report.kills_before_open += u32::from(!lines.contains(&Line::Open));
        self.report.operations += lines.len();
        if let Some(wrong) = lines.iter().find(|line| matches!(line, Line::Wrong(_))) {
            bail!("{wrong}: see {}", place.log.display());
        }
        let opened = lines.contains(&Line::Open);
        apply(&mut place.known, &lines);
        let before = std::mem::take(&mut place.examined);
        // Before the scan the child does not know the directory's content, and may have exceeded the capacity.
        let is_counted = self.backend != Backend::Fs || fs::read_to_string(&place.log)?.contains(" scan: ");
        self.examine(place, is_counted)?;
        let examined = &place.examined;
        if opened {
            self.report.kills_in_a_write += u32::from(examined.n_unfinished > 0);
        } else {
            // At most, it recovered.
            ensure!(examined.n_unfinished <= before.n_unfinished, "new unfinished files before any put");
            let is_over = place.is_over(before.chunk_bytes);
            ensure!(is_over || examined.chunks == before.chunks, "a start changed the chunks on disk");
        }
        self.compare(place)
    }

    /// Reads the whole directory. No file may be torn, and all together must respect the capacity once a child has
    /// counted them. Unfinished files are made old, so that the next child removes them.
    fn examine(&mut self, place: &mut Place, is_counted: bool) -> Result<()> {
        place.examined = examine(&place.directory, &self.sealer)?;
        let examined = &place.examined;
        self.report.files_checked += examined.chunks.len();
        self.report.bytes_checked += examined.chunk_bytes;
        self.report.torn += examined.torn.len();
        ensure!(examined.torn.is_empty(), "torn files: {}", examined.torn.join(", "));
        let bytes = examined.chunk_bytes + examined.unfinished_bytes;
        if let Some(capacity) = place.capacity.filter(|_| is_counted) {
            ensure!(bytes <= capacity, "{bytes} bytes on disk, more than the capacity of {capacity}");
        }
        check_strays(&place.directory)
    }

    /// Compares the disk with the answers that the children got. After that, the disk is the known state.
    fn compare(&mut self, place: &mut Place) -> Result<()> {
        for (number, known) in place.known.iter_mut().enumerate() {
            let is_present = place.examined.chunks.contains_key(&key(number as u64));
            match (*known, is_present) {
                (Known::Absent, true) => bail!("chunk {number} was removed and is back"),
                (Known::Present, false) if place.capacity.is_none() => {
                    bail!("chunk {number} was stored and is lost")
                }
                (Known::Absent, false) => self.report.removed += 1,
                (Known::Present, true) if place.capacity.is_none() => self.report.kept += 1,
                _ => {}
            }
            *known = if is_present { Known::Present } else { Known::Absent };
        }
        Ok(())
    }

    /// Starts a process that reads everything and then ends, and compares its findings with the disk.
    fn restart(&mut self, place: &mut Place, fill: bool) -> Result<()> {
        place.restarts += 1;
        let is_over = place.is_over(place.examined.chunk_bytes);
        let more: &[&str] = if fill { &["--fill"] } else { &[] };
        let child = Running::start(&self.arguments("read", place, more), &place.log)?;
        let (lines, opens_in) = child.wait().with_context(|| format!("see {}", place.log.display()))?;
        ensure!(lines.last() == Some(&Line::Closed), "the child that reads did not close");
        self.opens_in = opens_in;
        self.report.restarts += 1;
        self.check_recovery(place)?;
        for line in &lines {
            match line {
                Line::Hit(number) if place.known[*number as usize] == Known::Present => self.report.hits += 1,
                Line::Miss(number) if is_over || place.known[*number as usize] == Known::Absent => {
                    place.known[*number as usize] = Known::Absent;
                    self.report.misses += 1;
                }
                Line::Open | Line::Closed => {}
                line => bail!("{line}, which disagrees with the disk; see {}", place.log.display()),
            }
        }
        let chunks_before = std::mem::take(&mut place.examined).chunks;
        self.examine(place, true)?;
        ensure!(place.examined.n_unfinished == 0, "unfinished files remain after a restart");
        match place.capacity.filter(|_| fill) {
            None => ensure!(
                is_over || place.examined.chunks == chunks_before,
                "a restart changed the chunks on disk"
            ),
            Some(capacity) => {
                // It evicts when it must and not before, so its count is that of the disk.
                let (bytes, filler) = (place.examined.chunk_bytes, (FILLER_BYTES + TRAILER_BYTES) as u64);
                ensure!(
                    bytes <= capacity && bytes + filler > capacity,
                    "{bytes} bytes on disk after filling a capacity of {capacity}"
                );
                self.report.fills += 1;
                for (number, known) in place.known.iter_mut().enumerate() {
                    if !place.examined.chunks.contains_key(&key(number as u64)) {
                        *known = Known::Absent;
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks that a child that opened counted the chunks, bytes and unfinished files that were on disk.
    fn check_recovery(&mut self, place: &Place) -> Result<()> {
        self.report.unfinished_found += place.examined.n_unfinished;
        self.report.unfinished_bytes += place.examined.unfinished_bytes;
        if self.backend != Backend::Fs {
            return Ok(());
        }
        let log = fs::read_to_string(&place.log)?;
        let Examined { chunks, chunk_bytes, n_unfinished, .. } = &place.examined;
        let expected = format!("scan: {} chunks, {chunk_bytes} bytes found, ", chunks.len());
        ensure!(
            log.contains(&expected) && log.contains(&format!(", {n_unfinished} unfinished files removed")),
            "the backend did not find the content of the disk, `{expected}`, but: {log}"
        );
        Ok(())
    }

    fn arguments(&self, role: &str, place: &Place, more: &[&str]) -> Vec<String> {
        let backend = match self.backend {
            Backend::Fs => "fs",
            Backend::Inplace => "inplace",
        };
        let directory = place.directory.display().to_string();
        let mut arguments =
            [role, "--backend", backend, "--directory", &directory].map(str::to_owned).to_vec();
        arguments
            .extend(place.capacity.iter().flat_map(|bytes| ["--capacity".to_owned(), bytes.to_string()]));
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        arguments
    }
}
