//! A setting, defined once: its key, field, default and range, and how it is read and shown.
//!
//! [`settings!`] makes a struct and its table of one list; [`table!`] makes the table for a struct that is declared
//! elsewhere. Known keys, reading, `validate`, `shown` and the test of `docs/configuration.md` all use these tables, so
//! a new setting is one line here and one row there. The kinds of settings are in [`kind`](super::kind).

use std::path::Path;

use super::error::{ConfigError, ConfigProblem, Origin};
use super::value::bound::Bound;
use super::value::{Environment, RawSetting};

/// The context for reading a setting.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// Directory that relative paths are relative to.
    pub(super) base_dir: &'a Path,
    pub(super) environment: &'a Environment,
}

/// Describes one setting by the type of its field.
pub(super) struct Field<V: 'static> {
    pub(super) key: &'static str,
    pub(super) default: V,
    /// Lowers the default to what the machine has.
    pub(super) lower: Option<fn(V) -> V>,
    pub(super) blank: Blank,
    pub(super) kind: Kind<V>,
}

/// The meaning of an empty value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blank {
    /// The same as an absent setting.
    NotGiven,
    /// An error: it names a place, a grant or a secret, and the template that left it empty meant to fill it.
    Refused,
}

pub(super) enum Kind<V: 'static> {
    /// A whole number within a bound.
    Number {
        bound: Bound,
        read: fn(&RawSetting, &Bound) -> Result<V, ConfigError>,
        /// Returns the value in the unit of the bound.
        number: fn(&V) -> u64,
        show: fn(u64) -> String,
    },
    /// Anything else.
    Other { read: fn(&RawSetting, &Context<'_>) -> Result<V, ConfigError>, show: fn(&V) -> String },
}

impl<V> Field<V> {
    /// Makes the default depend on the machine.
    pub(super) const fn lowered(mut self, lower: fn(V) -> V) -> Self {
        self.lower = Some(lower);
        self
    }
}

impl<V: Clone> Field<V> {
    /// Returns the value of a setting that is not given.
    pub(super) fn default(&self) -> V {
        let default = self.default.clone();
        self.lower.map_or(default.clone(), |lower| lower(default))
    }

    pub(super) fn read(&self, raw: &RawSetting, context: &Context<'_>) -> Result<V, ConfigError> {
        match &self.kind {
            Kind::Number { bound, read, .. } => read(raw, bound),
            Kind::Other { read, .. } => read(raw, context),
        }
    }

    /// Shows a value without secrets.
    pub(super) fn show(&self, value: &V) -> String {
        match &self.kind {
            Kind::Number { number, show, .. } => show(number(value)),
            Kind::Other { show, .. } => show(value),
        }
    }

    pub(super) fn number(&self, value: &V) -> Option<Number> {
        match self.kind {
            Kind::Number { bound, number, show, .. } => Some(Number { value: number(value), bound, show }),
            Kind::Other { .. } => None,
        }
    }
}

/// The value of a whole-number setting and its bound.
pub(super) struct Number {
    pub(super) value: u64,
    pub(super) bound: Bound,
    pub(super) show: fn(u64) -> String,
}

/// One row of the table of the settings of `T`.
pub(super) struct Setting<T: 'static> {
    pub(super) key: &'static str,
    pub(super) blank: Blank,
    pub(super) read: fn(&mut T, &RawSetting, &Context<'_>) -> Result<(), ConfigError>,
    pub(super) show: fn(&T) -> String,
    pub(super) number: fn(&T) -> Option<Number>,
}

/// A struct with a table of its settings.
pub(super) trait Settings: Sized + 'static {
    const SETTINGS: &'static [Setting<Self>];

    /// Returns the keys of all settings.
    fn keys() -> impl Iterator<Item = &'static str> {
        Self::SETTINGS.iter().map(|setting| setting.key)
    }

    /// Reads `raw` into the field of `key`. Reports whether there is one.
    fn read_setting(
        &mut self,
        key: &str,
        raw: &RawSetting,
        context: &Context<'_>,
    ) -> Result<bool, ConfigError> {
        let Some(setting) = Self::SETTINGS.iter().find(|setting| setting.key == key) else {
            return Ok(false);
        };
        if setting.blank == Blank::Refused || !raw.value.is_blank() {
            (setting.read)(self, raw, context)?;
        }
        Ok(true)
    }

    /// Refuses numbers outside their range. `full_key` returns the whole key of a setting, for the message.
    fn check_ranges(&self, origin: &Origin, full_key: impl Fn(&str) -> String) -> Result<(), ConfigError> {
        for setting in Self::SETTINGS {
            if let Some(number) = (setting.number)(self) {
                check_range(origin, &full_key(setting.key), &number)?;
            }
        }
        Ok(())
    }
}

/// Refuses a typed value outside its bound.
pub(super) fn check_range(origin: &Origin, key: &str, number: &Number) -> Result<(), ConfigError> {
    let Number { value, bound, show } = *number;
    if bound.accepts(value) {
        return Ok(());
    }
    let (key, found) = (key.to_owned(), show(value));
    let problem = ConfigProblem::OutOfRange { key, found, min: show(bound.min), max: show(bound.max) };
    Err(ConfigError::new(origin, problem))
}

/// Declares a struct of settings, its defaults and its table. A line is `field: type = kind(key, default, range)`.
/// Fields `beside` are not settings of the table and have only a default.
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $($(#[$doc:meta])* $field:ident: $ty:ty = $definition:expr,)*
        }
        $(beside {
            $($(#[$other_doc:meta])* $other:ident: $other_ty:ty = $other_default:expr,)*
        })?
    ) => {
        $(#[$attribute])*
        pub struct $name {
            $($(#[$doc])* pub $field: $ty,)*
            $($($(#[$other_doc])* pub $other: $other_ty,)*)?
        }

        impl $name {
            /// Makes one with every setting at its default.
            pub(in crate::config) fn with_defaults() -> Self {
                Self {
                    $($field: {
                        const FIELD: &$crate::config::setting::Field<$ty> = &$definition;
                        FIELD.default()
                    },)*
                    $($($other: $other_default,)*)?
                }
            }
        }

        $crate::config::setting::table!($name { $($field: $ty = $definition,)* });
    };
}

/// Makes the table of the settings of a struct. A line is `field: type = kind(key, default, range)`.
macro_rules! table {
    ($name:ty { $($field:ident: $ty:ty = $definition:expr,)* }) => {
        impl $crate::config::setting::Settings for $name {
            const SETTINGS: &'static [$crate::config::setting::Setting<Self>] = &[$({
                const FIELD: &$crate::config::setting::Field<$ty> = &$definition;
                $crate::config::setting::Setting {
                    key: FIELD.key,
                    blank: FIELD.blank,
                    read: |owner, raw, context| {
                        owner.$field = FIELD.read(raw, context)?;
                        Ok(())
                    },
                    show: |owner| FIELD.show(&owner.$field),
                    number: |owner| FIELD.number(&owner.$field),
                }
            },)*];
        }
    };
}

pub(super) use {settings, table};
