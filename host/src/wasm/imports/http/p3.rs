//! WASI 0.3's HTTP objects, counted and measured.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, Accessor, FutureConsumer, FutureReader, Linker, LinkerInstance, Resource, Source, StreamReader,
};
use wasmtime::{AsContextMut as _, StoreContextMut, format_err};
use wasmtime_wasi_http::p3::bindings::http::client::HostWithStore as _;
use wasmtime_wasi_http::p3::bindings::http::types::{
    ErrorCode, Fields, HeaderError, Host as _, HostFields, HostRequest, HostRequestOptions,
    HostRequestWithStore, HostResponse, Method, Request, RequestOptions, Response, Scheme,
};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _};

use super::objects::{Kind, is_short};
use crate::limits::{HTTP_URL_PART_BYTES_MAX, HTTP_WORD_BYTES_MAX};
use crate::wasm::state::GuestState;

/// The version under which WASI HTTP is linked.
const VERSION: &str = "0.3.0";

/// What a guest says at the end of a body.
type Trailers = Result<Option<Resource<Fields>>, ErrorCode>;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:http/types@{VERSION}"))?;
    add_fields_to_linker(&mut instance)?;
    add_requests_to_linker(&mut instance)?;
    add_responses_to_linker(&mut instance)?;
    let mut instance = linker.instance(&format!("wasi:http/client@{VERSION}"))?;
    instance.func_wrap_concurrent("send", |accessor, (request,): (Resource<Request>,)| {
        Box::pin(async move { Ok((send(accessor, request).await?,)) })
    })
}

async fn send(
    accessor: &Accessor<GuestState>,
    request: Resource<Request>,
) -> wasmtime::Result<Result<Resource<Response>, ErrorCode>> {
    // The request leaves the table, and waits for its turn with all that it holds.
    let Some(_sending) = accessor.with(|mut access| access.get().send_http()) else {
        return Ok(Err(ErrorCode::ConnectionLimitReached));
    };
    let http = accessor.with_getter::<WasiHttp>(GuestState::http);
    match WasiHttp::send(&http, request).await {
        Ok(response) => {
            accessor.with(|mut access| access.get().made_for_http(&response, Kind::Answer));
            Ok(Ok(response))
        }
        Err(error) => Ok(Err(error.downcast()?)),
    }
}

fn add_fields_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.func_wrap("[constructor]fields", |mut store, (): ()| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Fields, |http| HostFields::new(http))?,))
    })?;
    instance.func_wrap("[static]fields.from-list", |mut store, (entries,): (Vec<(String, Vec<u8>)>,)| {
        let state: &mut GuestState = store.data_mut();
        let fields = state.http_object(Kind::Fields, |http| match HostFields::from_list(http, entries) {
            Ok(fields) => Ok(Ok(fields)),
            Err(error) => Ok(Err::<_, HeaderError>(http.convert_header_error(error)?)),
        });
        Ok((fields?,))
    })?;
    instance.func_wrap("[method]fields.clone", |mut store, (fields,): (Resource<Fields>,)| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Fields, |http| HostFields::clone(http, fields))?,))
    })
}

type NewRequest =
    (Resource<Fields>, Option<StreamReader<u8>>, FutureReader<Trailers>, Option<Resource<RequestOptions>>);

fn add_requests_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[static]request.new",
        |mut store, (headers, body, trailers, options): NewRequest| {
            store.data_mut().make_room_for_http()?;
            let trailers = without_words(store.as_context_mut(), trailers)?;
            let access = Access::<_, WasiHttp>::new(store.as_context_mut(), GuestState::http);
            let (request, sent) = <WasiHttp as HostRequestWithStore<GuestState>>::new(
                access, headers, body, trailers, options,
            )?;
            store.data_mut().made_for_http(&request, Kind::Request);
            Ok(((request, sent),))
        },
    )?;
    // Only the guest itself has made it. Errors of any length could be kept so, one for each.
    instance.func_wrap(
        "[static]request.consume-body",
        |_: StoreContextMut<'_, GuestState>,
         (_request, _result): (Resource<Request>, FutureReader<Result<(), ErrorCode>>)|
         -> wasmtime::Result<((StreamReader<u8>, FutureReader<Trailers>),)> {
            Err(format_err!("a backend does not receive requests, and the body of its own is not read back"))
        },
    )?;
    instance.func_wrap("[method]request.get-headers", |mut store, (request,): (Resource<Request>,)| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Fields, |http| HostRequest::get_headers(http, request))?,))
    })?;
    instance.func_wrap("[method]request.get-options", |mut store, (request,): (Resource<Request>,)| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Options, |http| HostRequest::get_options(http, request))?,))
    })?;
    instance.func_wrap(
        "[method]request.set-method",
        |mut store, (request, method): (Resource<Request>, Method)| {
            let state: &mut GuestState = store.data_mut();
            let other = if let Method::Other(other) = &method { Some(other) } else { None };
            let set = if is_short(other, HTTP_WORD_BYTES_MAX) {
                HostRequest::set_method(&mut state.http(), request, method)?
            } else {
                Err(())
            };
            Ok((set,))
        },
    )?;
    instance.func_wrap(
        "[method]request.set-scheme",
        |mut store, (request, scheme): (Resource<Request>, Option<Scheme>)| {
            let state: &mut GuestState = store.data_mut();
            let other = if let Some(Scheme::Other(other)) = &scheme { Some(other) } else { None };
            let set = if is_short(other, HTTP_WORD_BYTES_MAX) {
                HostRequest::set_scheme(&mut state.http(), request, scheme)?
            } else {
                Err(())
            };
            Ok((set,))
        },
    )?;
    instance.func_wrap(
        "[method]request.set-path-with-query",
        |mut store, (request, path): (Resource<Request>, Option<String>)| {
            let state: &mut GuestState = store.data_mut();
            let set = if is_short(path.as_ref(), HTTP_URL_PART_BYTES_MAX) {
                HostRequest::set_path_with_query(&mut state.http(), request, path)?
            } else {
                Err(())
            };
            Ok((set,))
        },
    )?;
    instance.func_wrap(
        "[method]request.set-authority",
        |mut store, (request, authority): (Resource<Request>, Option<String>)| {
            let state: &mut GuestState = store.data_mut();
            let set = if is_short(authority.as_ref(), HTTP_URL_PART_BYTES_MAX) {
                HostRequest::set_authority(&mut state.http(), request, authority)?
            } else {
                Err(())
            };
            Ok((set,))
        },
    )?;
    instance.func_wrap("[constructor]request-options", |mut store, (): ()| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Options, |http| HostRequestOptions::new(http))?,))
    })?;
    instance.func_wrap(
        "[method]request-options.clone",
        |mut store, (options,): (Resource<RequestOptions>,)| {
            let state: &mut GuestState = store.data_mut();
            Ok((state.http_object(Kind::Options, |http| HostRequestOptions::clone(http, options))?,))
        },
    )
}

type NewResponse = (Resource<Response>, FutureReader<Result<(), ErrorCode>>);

fn add_responses_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[static]response.new",
        |_: StoreContextMut<'_, GuestState>,
         (_headers, _body, _trailers): (
            Resource<Fields>,
            Option<StreamReader<u8>>,
            FutureReader<Trailers>,
        )|
         -> wasmtime::Result<(NewResponse,)> {
            Err(format_err!("a backend receives no requests, and makes no responses"))
        },
    )?;
    instance.func_wrap("[method]response.get-headers", |mut store, (response,): (Resource<Response>,)| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Answer, |http| HostResponse::get_headers(http, response))?,))
    })
}

/// Takes the words out of an error that a guest ends a body with: it waits with the request, and may have any length.
fn without_words(
    mut store: StoreContextMut<'_, GuestState>,
    trailers: FutureReader<Trailers>,
) -> wasmtime::Result<FutureReader<Trailers>> {
    let (sender, receiver) = oneshot::channel();
    trailers.pipe(&mut store, WithoutWords(Some(sender)))?;
    // A guest that drops its end has nothing to add.
    let trailers = async { receiver.await.unwrap_or(Ok(None)) };
    FutureReader::new(&mut store, trailers.map(wasmtime::Result::<_, wasmtime::Error>::Ok))
}

struct WithoutWords(Option<oneshot::Sender<Trailers>>);

impl FutureConsumer<GuestState> for WithoutWords {
    type Item = Trailers;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut store: StoreContextMut<'_, GuestState>,
        mut source: Source<'_, Trailers>,
        _: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut trailers = None;
        source.read(&mut store, &mut trailers)?;
        let trailers = trailers.unwrap_or(Ok(None)).map_err(|_| ErrorCode::InternalError(None));
        if let Some(sender) = self.0.take() {
            // The request may have been given up.
            let _unheard = sender.send(trailers).is_err();
        }
        Poll::Ready(Ok(()))
    }
}
