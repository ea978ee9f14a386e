//! WASI HTTP 0.2, with its objects counted and limited.

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::outgoing_handler::Host as _;
use wasmtime_wasi_http::p2::bindings::http::types::{
    ErrorCode, HeaderError, Host as _, HostFields, HostFutureIncomingResponse, HostFutureTrailers,
    HostIncomingBody, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse, HostRequestOptions,
    Method, Scheme,
};
use wasmtime_wasi_http::p2::body::{HostFutureTrailers as FutureTrailers, HostIncomingBody as IncomingBody};
use wasmtime_wasi_http::p2::types::{
    HostFutureIncomingResponse as FutureResponse, HostIncomingResponse as IncomingResponse,
    HostOutgoingRequest as Request, HostOutgoingResponse as OutgoingResponse,
};
use wasmtime_wasi_http::{FieldMap as Fields, RequestOptions, WasiHttpView as _};

use super::super::P2;
use super::objects::{Kind, shadow_fields, shadow_makers, shadow_setters};
use crate::wasm::state::GuestState;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:http/types@{P2}"))?;
    shadow_fields!(instance);
    shadow_setters!(instance, HostOutgoingRequest, "outgoing-request");
    shadow_makers! { instance;
        "[constructor]outgoing-request": HostOutgoingRequest::new(headers: Resource<Fields>), Request;
        "[method]outgoing-request.body": HostOutgoingRequest::body(request: Resource<Request>), Body;
        "[method]outgoing-request.headers": HostOutgoingRequest::headers(request: Resource<Request>), Fields;
        "[constructor]request-options": HostRequestOptions::new(), Options;
        "[constructor]outgoing-response": HostOutgoingResponse::new(headers: Resource<Fields>), Request;
        "[method]outgoing-response.body": HostOutgoingResponse::body(response: Resource<OutgoingResponse>), Body;
        "[method]outgoing-response.headers":
            HostOutgoingResponse::headers(response: Resource<OutgoingResponse>), Fields;
        "[method]incoming-response.headers":
            HostIncomingResponse::headers(response: Resource<IncomingResponse>), Answer;
        "[method]incoming-response.consume":
            HostIncomingResponse::consume(response: Resource<IncomingResponse>), Options;
        "[method]future-incoming-response.get":
            HostFutureIncomingResponse::get(response: Resource<FutureResponse>), Answer;
        "[static]incoming-body.finish": HostIncomingBody::finish(body: Resource<IncomingBody>), Answer;
        "[method]future-trailers.get": HostFutureTrailers::get(future: Resource<FutureTrailers>), Answer;
    }
    let mut instance = linker.instance(&format!("wasi:http/outgoing-handler@{P2}"))?;
    instance.func_wrap(
        "handle",
        |mut store, (request, options): (Resource<Request>, Option<Resource<RequestOptions>>)| {
            let state: &mut GuestState = store.data_mut();
            state.http_objects().make_room()?;
            Ok((match state.http().handle(request, options) {
                Ok(response) => {
                    state.http_objects().made(&response, Kind::Request);
                    Ok(response)
                }
                Err(error) => Err::<_, ErrorCode>(state.http().convert_error_code(error)?),
            },))
        },
    )
}
