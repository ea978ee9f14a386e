//! The kinds of settings: how a value of each is read, checked and shown.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::ConfigError;
use super::setting::{Blank, Context, Field, Kind};
use super::value::RawSetting;
use super::value::bound::Bound;
use super::value::size::{show_gib, show_size};

/// A choice among a few words.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// Returns the words and their meanings, in the order in which errors list them.
    fn words() -> Vec<(&'static str, Self)>;
}

/// Makes a setting that counts something.
pub(super) const fn count(key: &'static str, default: u64, range: RangeInclusive<u64>) -> Field<usize> {
    let bound = Bound::new(default, &range);
    number(key, default as usize, bound, RawSetting::count, |value| *value as u64, |n| n.to_string())
}

/// Makes a setting that is a rate or another number that is not an index.
pub(super) const fn whole(key: &'static str, default: u64, range: RangeInclusive<u64>) -> Field<u64> {
    number(key, default, Bound::new(default, &range), RawSetting::whole, |value| *value, |n| n.to_string())
}

/// Makes a setting that is a size in bytes.
pub(super) const fn size(key: &'static str, default: u64, range: RangeInclusive<u64>) -> Field<u64> {
    number(key, default, Bound::new(default, &range), RawSetting::size_bytes, |value| *value, show_size)
}

/// Makes a setting that is a size in GiB. 0 is accepted in addition to the range.
pub(super) const fn gib(key: &'static str, default: u64, range: RangeInclusive<u64>) -> Field<u64> {
    let bound = Bound { or_zero: true, ..Bound::new(default, &range) };
    number(key, default, bound, RawSetting::gib_as_bytes, |value| *value, show_gib)
}

/// Makes a setting that is a time in milliseconds.
pub(super) const fn millis(key: &'static str, default: u64, range: RangeInclusive<u64>) -> Field<Duration> {
    let as_ms = |value: &Duration| u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    let bound = Bound::new(default, &range);
    number(key, Duration::from_millis(default), bound, RawSetting::millis, as_ms, |n| n.to_string())
}

/// Makes a setting that is a time in seconds.
pub(super) const fn secs(key: &'static str, default: u64, range: RangeInclusive<u64>) -> Field<Duration> {
    let bound = Bound::new(default, &range);
    number(key, Duration::from_secs(default), bound, RawSetting::secs, Duration::as_secs, |n| n.to_string())
}

/// Makes a setting that is on or off.
pub(super) const fn boolean(key: &'static str, default: bool) -> Field<bool> {
    other(key, default, Blank::NotGiven, |raw, _| raw.boolean(), ToString::to_string)
}

/// Makes a setting that is one of a few words.
pub(super) const fn word<V: Word>(key: &'static str, default: V) -> Field<V> {
    let show = |value: &V| {
        let found = V::words().into_iter().find(|(_, word)| word == value);
        found.map_or_else(String::new, |(word, _)| word.to_owned())
    };
    other(key, default, Blank::NotGiven, |raw, _| raw.choice(&V::words()), show)
}

/// Makes a setting that is read and shown in its own way.
pub(super) const fn other<V>(
    key: &'static str,
    default: V,
    blank: Blank,
    read: fn(&RawSetting, &Context<'_>) -> Result<V, ConfigError>,
    show: fn(&V) -> String,
) -> Field<V> {
    Field { key, default, lower: None, blank, kind: Kind::Other { read, show } }
}

const fn number<V>(
    key: &'static str,
    default: V,
    bound: Bound,
    read: fn(&RawSetting, &Bound) -> Result<V, ConfigError>,
    number: fn(&V) -> u64,
    show: fn(u64) -> String,
) -> Field<V> {
    Field {
        key,
        default,
        lower: None,
        blank: Blank::NotGiven,
        kind: Kind::Number { bound, read, number, show },
    }
}
