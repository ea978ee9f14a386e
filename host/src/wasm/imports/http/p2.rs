//! WASI 0.2's HTTP objects, counted and measured.

use wasmtime::component::{Linker, LinkerInstance, Resource};
use wasmtime_wasi_http::p2::bindings::http::outgoing_handler::Host as _;
use wasmtime_wasi_http::p2::bindings::http::types::{
    ErrorCode, HeaderError, Host as _, HostFields, HostFutureIncomingResponse, HostFutureTrailers,
    HostIncomingBody, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse, HostRequestOptions,
    Method, Scheme,
};
use wasmtime_wasi_http::p2::body::{
    HostFutureTrailers as FutureTrailers, HostIncomingBody as IncomingBody, HostOutgoingBody as OutgoingBody,
};
use wasmtime_wasi_http::p2::types::{
    HostFutureIncomingResponse as FutureResponse, HostIncomingResponse as IncomingResponse,
    HostOutgoingRequest as Request, HostOutgoingResponse as OutgoingResponse,
};
use wasmtime_wasi_http::{FieldMap, RequestOptions, WasiHttpView as _};

use super::objects::{Kind, is_short};
use crate::limits::{HTTP_URL_PART_BYTES_MAX, HTTP_WORD_BYTES_MAX};
use crate::wasm::state::GuestState;

type Fields = Resource<FieldMap>;

/// The version under which WASI HTTP is linked.
const VERSION: &str = "0.2.12";

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:http/types@{VERSION}"))?;
    add_fields_to_linker(&mut instance)?;
    add_requests_to_linker(&mut instance)?;
    add_responses_to_linker(&mut instance)?;
    let mut instance = linker.instance(&format!("wasi:http/outgoing-handler@{VERSION}"))?;
    instance.func_wrap(
        "handle",
        |mut store, (request, options): (Resource<Request>, Option<Resource<RequestOptions>>)| {
            let state: &mut GuestState = store.data_mut();
            state.make_room_for_http()?;
            Ok((match state.http().handle(request, options) {
                Ok(response) => {
                    state.made_for_http(&response, Kind::Request);
                    Ok(response)
                }
                Err(error) => Err::<_, ErrorCode>(state.http().convert_error_code(error)?),
            },))
        },
    )
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
    instance.func_wrap("[method]fields.clone", |mut store, (fields,): (Fields,)| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Fields, |http| HostFields::clone(http, fields))?,))
    })
}

fn add_requests_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.func_wrap("[constructor]outgoing-request", |mut store, (headers,): (Fields,)| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Request, |http| HostOutgoingRequest::new(http, headers))?,))
    })?;
    instance.func_wrap("[method]outgoing-request.body", |mut store, (request,): (Resource<Request>,)| {
        let state: &mut GuestState = store.data_mut();
        let body: Result<Resource<OutgoingBody>, ()> =
            state.http_object(Kind::Body, |http| HostOutgoingRequest::body(http, request))?;
        Ok((body,))
    })?;
    instance.func_wrap(
        "[method]outgoing-request.headers",
        |mut store, (request,): (Resource<Request>,)| {
            let state: &mut GuestState = store.data_mut();
            Ok((state.http_object(Kind::Fields, |http| HostOutgoingRequest::headers(http, request))?,))
        },
    )?;
    instance.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store, (request, method): (Resource<Request>, Method)| {
            let state: &mut GuestState = store.data_mut();
            let other = if let Method::Other(other) = &method { Some(other) } else { None };
            let set = if is_short(other, HTTP_WORD_BYTES_MAX) {
                HostOutgoingRequest::set_method(&mut state.http(), request, method)?
            } else {
                Err(())
            };
            Ok((set,))
        },
    )?;
    instance.func_wrap(
        "[method]outgoing-request.set-scheme",
        |mut store, (request, scheme): (Resource<Request>, Option<Scheme>)| {
            let state: &mut GuestState = store.data_mut();
            let other = if let Some(Scheme::Other(other)) = &scheme { Some(other) } else { None };
            let set = if is_short(other, HTTP_WORD_BYTES_MAX) {
                HostOutgoingRequest::set_scheme(&mut state.http(), request, scheme)?
            } else {
                Err(())
            };
            Ok((set,))
        },
    )?;
    instance.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store, (request, path): (Resource<Request>, Option<String>)| {
            let state: &mut GuestState = store.data_mut();
            let set = if is_short(path.as_ref(), HTTP_URL_PART_BYTES_MAX) {
                HostOutgoingRequest::set_path_with_query(&mut state.http(), request, path)?
            } else {
                Err(())
            };
            Ok((set,))
        },
    )?;
    instance.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store, (request, authority): (Resource<Request>, Option<String>)| {
            let state: &mut GuestState = store.data_mut();
            let set = if is_short(authority.as_ref(), HTTP_URL_PART_BYTES_MAX) {
                HostOutgoingRequest::set_authority(&mut state.http(), request, authority)?
            } else {
                Err(())
            };
            Ok((set,))
        },
    )?;
    instance.func_wrap("[constructor]request-options", |mut store, (): ()| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Options, |http| HostRequestOptions::new(http))?,))
    })
}

fn add_responses_to_linker(instance: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    instance.func_wrap("[constructor]outgoing-response", |mut store, (headers,): (Fields,)| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Request, |http| HostOutgoingResponse::new(http, headers))?,))
    })?;
    instance.func_wrap(
        "[method]outgoing-response.body",
        |mut store, (response,): (Resource<OutgoingResponse>,)| {
            let state: &mut GuestState = store.data_mut();
            let body: Result<Resource<OutgoingBody>, ()> =
                state.http_object(Kind::Body, |http| HostOutgoingResponse::body(http, response))?;
            Ok((body,))
        },
    )?;
    instance.func_wrap(
        "[method]outgoing-response.headers",
        |mut store, (response,): (Resource<OutgoingResponse>,)| {
            let state: &mut GuestState = store.data_mut();
            Ok((state.http_object(Kind::Fields, |http| HostOutgoingResponse::headers(http, response))?,))
        },
    )?;
    instance.func_wrap(
        "[method]incoming-response.headers",
        |mut store, (response,): (Resource<IncomingResponse>,)| {
            let state: &mut GuestState = store.data_mut();
            Ok((state.http_object(Kind::Answer, |http| HostIncomingResponse::headers(http, response))?,))
        },
    )?;
    instance.func_wrap(
        "[method]incoming-response.consume",
        |mut store, (response,): (Resource<IncomingResponse>,)| {
            let state: &mut GuestState = store.data_mut();
            let body: Result<Resource<IncomingBody>, ()> =
                state.http_object(Kind::Options, |http| HostIncomingResponse::consume(http, response))?;
            Ok((body,))
        },
    )?;
    instance.func_wrap(
        "[method]future-incoming-response.get",
        |mut store, (response,): (Resource<FutureResponse>,)| {
            let state: &mut GuestState = store.data_mut();
            Ok((state.http_object(Kind::Answer, |http| HostFutureIncomingResponse::get(http, response))?,))
        },
    )?;
    instance.func_wrap("[static]incoming-body.finish", |mut store, (body,): (Resource<IncomingBody>,)| {
        let state: &mut GuestState = store.data_mut();
        let trailers: Resource<FutureTrailers> =
            state.http_object(Kind::Answer, |http| HostIncomingBody::finish(http, body))?;
        Ok((trailers,))
    })?;
    instance.func_wrap("[method]future-trailers.get", |mut store, (future,): (Resource<FutureTrailers>,)| {
        let state: &mut GuestState = store.data_mut();
        Ok((state.http_object(Kind::Answer, |http| HostFutureTrailers::get(http, future))?,))
    })
}
