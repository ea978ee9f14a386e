//! Making the HTTP objects that an instance holds, within their limits.

use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView as _};

pub(super) use crate::wasm::state::http_objects::Kind;
use crate::wasm::state::http_objects::{Made, Sending};
use crate::wasm::state::{GuestState, HttpObjectsView};

/// Makes an HTTP object and counts it.
///
/// # Errors
/// A trap, if there are too many: most of these functions have no error to return.
pub(super) fn make<M: Made>(
    state: &mut GuestState,
    kind: Kind,
    make: impl FnOnce(&mut WasiHttpCtxView<'_>) -> wasmtime::Result<M>,
) -> wasmtime::Result<M> {
    state.http_objects().make_room()?;
    let answer = make(&mut state.http())?;
    state.http_objects().made(&answer, kind);
    Ok(answer)
}

impl HttpObjectsView<'_> {
    /// Counts an object that there was room for.
    pub(super) fn made(self, made: &impl Made, kind: Kind) {
        if let Some((place, is_there)) = made.object() {
            self.objects.put(place, is_there, kind);
        }
    }

    /// Traps if there may be no further object.
    pub(super) fn make_room(self) -> wasmtime::Result<()> {
        if self.objects.have_room(self.table) { Ok(()) } else { Err(self.objects.refusal()) }
    }

    /// Counts a request that is about to be sent; `None` if there are too many.
    pub(super) fn send(self) -> Option<Sending> {
        self.objects.send(self.table)
    }
}

/// Reports whether a text is no longer than `n_bytes_max`.
pub(super) fn is_short(text: Option<&String>, n_bytes_max: usize) -> bool {
    text.is_none_or(|text| text.len() <= n_bytes_max)
}

// The two versions of WASI HTTP have types of their own, which are spelled alike. The macros below use those of the
// file that calls them.

/// Shadows functions that make an object, so that it is counted. Each has its name, its function in WASI with the
/// arguments, and the kind of object.
macro_rules! shadow_makers {
    ($instance:ident; $($name:literal: $Host:ident::$function:ident($($argument:ident: $type:ty),*), $kind:ident;)*) => {$(
        $instance.func_wrap($name, |mut store, ($($argument,)*): ($($type,)*)| {
            let made = $crate::wasm::imports::http::objects::make(store.data_mut(), Kind::$kind, |http| {
                $Host::$function(http, $($argument),*)
            });
            Ok((made?,))
        })?;
    )*};
}

/// Shadows the functions that make fields.
macro_rules! shadow_fields {
    ($instance:ident) => {
        shadow_makers! { $instance;
            "[constructor]fields": HostFields::new(), Fields;
            "[method]fields.clone": HostFields::clone(fields: Resource<Fields>), Fields;
        }
        $instance.func_wrap(
            "[static]fields.from-list",
            |mut store, (entries,): (Vec<(String, Vec<u8>)>,)| {
                let fields =
                    $crate::wasm::imports::http::objects::make(store.data_mut(), Kind::Fields, |http| {
                        match HostFields::from_list(http, entries) {
                            Ok(fields) => Ok(Ok(fields)),
                            Err(error) => Ok(Err::<_, HeaderError>(http.convert_header_error(error)?)),
                        }
                    });
                Ok((fields?,))
            },
        )?;
    };
}

/// Shadows the functions that set a part of a request, whose length WASI does not limit. Each has its name, its
/// function in WASI, the text that is measured, and the limit.
macro_rules! shadow_setters {
    ($instance:ident, $Host:ident, $resource:literal) => {
        shadow_setters! { $instance, $Host, $resource;
            ".set-method": set_method(method: Method),
                if let Method::Other(word) = &method { Some(word) } else { None }, HTTP_WORD_BYTES_MAX;
            ".set-scheme": set_scheme(scheme: Option<Scheme>),
                if let Some(Scheme::Other(word)) = &scheme { Some(word) } else { None }, HTTP_WORD_BYTES_MAX;
            ".set-path-with-query": set_path_with_query(path: Option<String>),
                path.as_ref(), HTTP_URL_PART_BYTES_MAX;
            ".set-authority": set_authority(authority: Option<String>),
                authority.as_ref(), HTTP_URL_PART_BYTES_MAX;
        }
    };
    ($instance:ident, $Host:ident, $resource:literal;
        $($name:literal: $set:ident($value:ident: $type:ty), $text:expr, $n_bytes_max:ident;)*
    ) => {$(
        $instance.func_wrap(
            concat!("[method]", $resource, $name),
            |mut store, (request, $value): (Resource<Request>, $type)| {
                let state: &mut GuestState = store.data_mut();
                let is_short =
                    $crate::wasm::imports::http::objects::is_short($text, $crate::limits::$n_bytes_max);
                let set = if is_short { $Host::$set(&mut state.http(), request, $value)? } else { Err(()) };
                Ok((set,))
            },
        )?;
    )*};
}
pub(super) use {shadow_fields, shadow_makers, shadow_setters};
