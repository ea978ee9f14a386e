//! A check of one backend, as the commands `check` and `dev` make it.

mod broken;
mod html;
pub(crate) mod json;
mod subject;
pub(crate) mod text;

pub use self::broken::BrokenContract;
pub(crate) use self::html::render as render_html;
pub(crate) use self::subject::subject;
