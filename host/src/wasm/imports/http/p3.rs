//! WASI HTTP 0.3, with its objects counted and limited.

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

use super::super::{P3, without_trap};
use super::objects::{Kind, shadow_fields, shadow_makers, shadow_setters};
use crate::wasm::state::GuestState;

/// The end of a body: its trailers, or why it was cut off.
type Trailers = Result<Option<Resource<Fields>>, ErrorCode>;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:http/types@{P3}"))?;
    shadow_fields!(instance);
    shadow_setters!(instance, HostRequest, "request");
    shadow_makers! { instance;
        "[method]request.get-headers": HostRequest::get_headers(request: Resource<Request>), Fields;
        "[method]request.get-options": HostRequest::get_options(request: Resource<Request>), Options;
        "[constructor]request-options": HostRequestOptions::new(), Options;
        "[method]request-options.clone": HostRequestOptions::clone(options: Resource<RequestOptions>), Options;
        "[method]response.get-headers": HostResponse::get_headers(response: Resource<Response>), Answer;
    }
    add_requests_to_linker(&mut instance)?;
    let mut instance = linker.instance(&format!("wasi:http/client@{P3}"))?;
    instance.func_wrap_concurrent("send", |accessor, (request,): (Resource<Request>,)| {
        Box::pin(async move { Ok((send(accessor, request).await?,)) })
    })
}

async fn send(
    accessor: &Accessor<GuestState>,
    request: Resource<Request>,
) -> wasmtime::Result<Result<Resource<Response>, ErrorCode>> {
    // The request leaves the table and, with all that it holds, waits for its turn.
    let Some(_sending) = accessor.with(|mut access| access.get().http_objects().send()) else {
        return Ok(Err(ErrorCode::ConnectionLimitReached));
    };
    let http = accessor.with_getter::<WasiHttp>(GuestState::http);
    let response = without_trap(WasiHttp::send(&http, request).await)?;
    accessor.with(|mut access| access.get().http_objects().made(&response, Kind::Answer));
    Ok(response)
}

type NewResponse = (Resource<Response>, FutureReader<Result<(), ErrorCode>>);

type NewRequest =
    (Resource<Fields>, Option<StreamReader<u8>>, FutureReader<Trailers>, Option<Resource<RequestOptions>>);

fn add_requests_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[static]request.new",
        |mut store, (headers, body, trailers, options): NewRequest| {
            store.data_mut().http_objects().make_room()?;
            let trailers = without_text(store.as_context_mut(), trailers)?;
            let access = Access::<_, WasiHttp>::new(store.as_context_mut(), GuestState::http);
            let (request, sent) = <WasiHttp as HostRequestWithStore<GuestState>>::new(
                access, headers, body, trailers, options,
            )?;
            store.data_mut().http_objects().made(&request, Kind::Request);
            Ok(((request, sent),))
        },
    )?;
    // Refused: the guest makes all requests itself, and could store an error of any length with each body that it reads
    // back.
    instance.func_wrap(
        "[static]request.consume-body",
        |_: StoreContextMut<'_, GuestState>,
         (_request, _result): (Resource<Request>, FutureReader<Result<(), ErrorCode>>)|
         -> wasmtime::Result<((StreamReader<u8>, FutureReader<Trailers>),)> {
            Err(format_err!(
                "a backend does not receive requests, and cannot read back the bodies of its own"
            ))
        },
    )?;
    instance.func_wrap(
        "[static]response.new",
        |_: StoreContextMut<'_, GuestState>,
         (_headers, _body, _trailers): (
            Resource<Fields>,
            Option<StreamReader<u8>>,
            FutureReader<Trailers>,
        )|
         -> wasmtime::Result<(NewResponse,)> {
            Err(format_err!("a backend does not receive requests, and does not make responses"))
        },
    )
}

/// Removes the text of an error that a guest ends a body with: it may have any length, and waits with the request.
fn without_text(
    mut store: StoreContextMut<'_, GuestState>,
    trailers: FutureReader<Trailers>,
) -> wasmtime::Result<FutureReader<Trailers>> {
    let (sender, receiver) = oneshot::channel();
    trailers.pipe(&mut store, WithoutText(Some(sender)))?;
    // A guest that drops its end adds no trailers.
    let trailers = async { receiver.await.unwrap_or(Ok(None)) };
    FutureReader::new(&mut store, trailers.map(wasmtime::Result::<_, wasmtime::Error>::Ok))
}

struct WithoutText(Option<oneshot::Sender<Trailers>>);

impl FutureConsumer<GuestState> for WithoutText {
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
            // The request may have been dropped.
            let _unreceived = sender.send(trailers).is_err();
        }
        Poll::Ready(Ok(()))
    }
}
