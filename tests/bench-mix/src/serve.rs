//! Takes timings at the request of another process, one line each.
//!
//! | request | answer |
//! |---|---|
//! | `caches` | `NAME<tab>DESCRIPTION<tab>NAME<tab>DESCRIPTION…` |
//! | `course NAME THREADS` | [`READY`], once the caches are filled |
//! | `sample NAME OPERATION` | nanoseconds per key and hit ratio, with a space between |
//! Each name has one course, which a new one replaces. The end of the input ends the process.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use crate::course::{Operation, Run};

/// The answer to `course`.
pub const READY: &str = "ready";

/// A cache that can be requested.
pub struct Entry {
    /// Its name, without blanks.
    pub name: &'static str,
    /// Its version, its policy, and what replaces operations that it lacks.
    pub description: &'static str,
    /// Starts a course with a number of threads.
    pub start: fn(usize) -> Box<dyn Run>,
}

/// Answers until the input ends.
///
/// # Errors
/// If a line is none of the above, or cannot be read or answered.
pub fn serve(entries: &[Entry], input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut courses: HashMap<&'static str, Box<dyn Run>> = HashMap::new();
    for line in input.lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["caches"] => Some(describe(entries)),
            ["course", name, n_threads] => entries
                .iter()
                .find(|entry| entry.name == name)
                .and_then(|entry| n_threads.parse().ok().map(|n_threads| (entry, n_threads)))
                .map(|(entry, n_threads)| {
                    courses.remove(entry.name);
                    courses.insert(entry.name, (entry.start)(n_threads));
                    READY.to_owned()
                }),
            ["sample", name, operation] => courses
                .get_mut(name)
                .and_then(|course| operation.parse::<Operation>().ok().map(|operation| (course, operation)))
                .map(|(course, operation)| {
                    let sample = course.sample(operation);
                    format!("{} {}", sample.ns_per_key, sample.hit_ratio)
                }),
            _ => None,
        };
        let Some(answer) = answer else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not understood: {line}")));
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn describe(entries: &[Entry]) -> String {
    let words: Vec<&str> = entries.iter().flat_map(|entry| [entry.name, entry.description]).collect();
    words.join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::course::Sample;

    struct Fixed(usize);

    impl Run for Fixed {
        fn sample(&mut self, operation: Operation) -> Sample {
            let hit_ratio = if operation == Operation::Get { 1.0 } else { 0.5 };
            Sample { ns_per_key: self.0 as f64, hit_ratio }
        }
    }

    fn answers(asked: &str) -> io::Result<String> {
        let entry =
            Entry { name: "fixed", description: "1.0, FIFO", start: |n_threads| Box::new(Fixed(n_threads)) };
        let mut output = Vec::new();
        serve(&[entry], asked.as_bytes(), &mut output)?;
        Ok(String::from_utf8(output).unwrap())
    }

    #[test]
    fn samples_are_those_of_the_course_that_was_started_last() {
        let asked = "caches\ncourse fixed 2\nsample fixed get\ncourse fixed 4\nsample fixed mix\n";
        assert_eq!(answers(asked).unwrap(), "fixed\t1.0, FIFO\nready\n2 1\nready\n4 0.5\n");
    }

    #[test]
    fn what_is_not_understood_ends_it() {
        for asked in ["sample fixed get", "course other 1", "course fixed one", "hello", "sample fixed dance"]
        {
            assert!(answers(asked).is_err(), "{asked}");
        }
    }
}
