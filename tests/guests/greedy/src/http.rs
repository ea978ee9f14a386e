//! HTTP objects that are never sent.

use std::mem;

use kvtier_guest::Error;
use kvtier_guest::wasip2::http::types as http_0_2;
use kvtier_guest::wasip3::http::{client, types as http_0_3};
use kvtier_guest::wasip3::{wit_future, wit_stream};

/// Takes `n` of something of HTTP; `None` if that is none of its words.
pub(crate) async fn take(takes: &str, n: usize) -> Option<Result<(), Error>> {
    Some(match takes {
        "fields-0.2" => {
            (0..n).for_each(|_| mem::forget(http_0_2::Fields::new()));
            Ok(())
        }
        "fields-0.3" => {
            (0..n).for_each(|_| mem::forget(http_0_3::Fields::new()));
            Ok(())
        }
        "options-0.3" => {
            (0..n).for_each(|_| mem::forget(http_0_3::RequestOptions::new()));
            Ok(())
        }
        "field-bytes-0.2" => {
            let fields = http_0_2::Fields::new();
            fields.append("x", &vec![b'x'; n]).map_err(|error| Error::other(format!("{error:?}")))
        }
        "field-bytes-0.3" => {
            let fields = http_0_3::Fields::new();
            fields.append("x", &vec![b'x'; n]).map_err(|error| Error::other(format!("{error:?}")))
        }
        // The largest that there may be, and as many bytes of each text as there may be, too.
        "requests-0.2" => (0..n).try_for_each(|_| request_0_2(3).map(mem::forget)),
        "full-requests-0.2" => (0..n).try_for_each(|_| request_0_2(49).map(mem::forget)),
        "requests-0.3" => (0..n).try_for_each(|_| request_0_3(true).map(mem::forget)),
        "bodies-0.2" => (0..n).try_for_each(|_| body_0_2()),
        // Everything about them as large as one likes.
        "large-requests-0.2" => {
            (0..n).for_each(|_| {
                let request = http_0_2::OutgoingRequest::new(http_0_2::Fields::new());
                let text = "M".repeat(1 << 20);
                let _refused = request.set_method(&http_0_2::Method::Other(text.clone())).is_err();
                let _refused = request.set_scheme(Some(&http_0_2::Scheme::Other(text.clone()))).is_err();
                let _refused = request.set_path_with_query(Some(&text[..60_000])).is_err();
                let _refused = request.set_authority(Some(&text[..60_000])).is_err();
                mem::forget(request);
            });
            Ok(())
        }
        "large-requests-0.3" => {
            for _ in 0..n {
                let request = request()?;
                let text = "M".repeat(1 << 20);
                let _refused = request.set_method(&http_0_3::Method::Other(text.clone())).is_err();
                let _refused = request.set_path_with_query(Some(&text[..60_000])).is_err();
                let _refused = request.set_authority(Some(&text[..60_000])).is_err();
                mem::forget(request);
            }
            Ok(())
        }
        "responses-0.2" => {
            (0..n).for_each(|_| {
                mem::forget(http_0_2::OutgoingResponse::new(http_0_2::Fields::new()));
            });
            Ok(())
        }
        "method-0.2" => {
            let request = http_0_2::OutgoingRequest::new(http_0_2::Fields::new());
            short(request.set_method(&http_0_2::Method::Other("M".repeat(n))))
        }
        "method-0.3" => short(request()?.set_method(&http_0_3::Method::Other("M".repeat(n)))),
        "scheme-0.2" => {
            let request = http_0_2::OutgoingRequest::new(http_0_2::Fields::new());
            short(request.set_scheme(Some(&http_0_2::Scheme::Other("s".repeat(n)))))
        }
        "scheme-0.3" => short(request()?.set_scheme(Some(&http_0_3::Scheme::Other("s".repeat(n))))),
        "path-0.2" => {
            let request = http_0_2::OutgoingRequest::new(http_0_2::Fields::new());
            short(request.set_path_with_query(Some(&"/".repeat(n))))
        }
        "path-0.3" => short(request()?.set_path_with_query(Some(&"/".repeat(n)))),
        "authority-0.2" => {
            let request = http_0_2::OutgoingRequest::new(http_0_2::Fields::new());
            short(request.set_authority(Some(&"a".repeat(n))))
        }
        "authority-0.3" => short(request()?.set_authority(Some(&"a".repeat(n)))),
        "sent" => {
            let request = request()?;
            let _set = request
                .set_authority(Some("a.example"))
                .and_then(|()| request.set_path_with_query(Some("/")));
            client::send(request).await.map(drop).map_err(|code| Error::other(format!("{code:?}")))
        }
        // What a guest writes about its own request would be kept, whatever its length.
        "words-0.3" => {
            let (told, tells) = wit_future::new(|| Err(http_0_3::ErrorCode::InternalError(None)));
            let read = http_0_3::Request::consume_body(request()?, tells);
            let words = "x".repeat(n);
            drop(told.write(Err(http_0_3::ErrorCode::InternalError(Some(words)))).await);
            mem::forget(read);
            Ok(())
        }
        "response-0.3" => {
            let (_, no_trailers) = wit_future::new(|| Ok(None));
            let response = http_0_3::Response::new(http_0_3::Fields::new(), None, no_trailers);
            mem::forget(response);
            Ok(())
        }
        _ => return None,
    })
}

fn short(set: Result<(), ()>) -> Result<(), Error> {
    set.map_err(|()| Error::invalid_argument("the text"))
}

fn request() -> Option<http_0_3::Request> {
    request_0_3(false).ok()
}

fn request_0_3(is_large: bool) -> Result<http_0_3::Request, Error> {
    let headers = http_0_3::Fields::new();
    if is_large {
        let mut n = 0;
        while headers.append(&format!("x{n}"), &[b'x'; 256]).is_ok() {
            n += 1;
        }
    }
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let body = is_large.then(|| wit_stream::new::<u8>().1);
    let (request, sent) = http_0_3::Request::new(headers, body, no_trailers, None);
    mem::forget(sent);
    if is_large {
        request
            .set_method(&http_0_3::Method::Other("M".repeat(64)))
            .and_then(|()| request.set_path_with_query(Some(&"/".repeat(8 << 10))))
            .and_then(|()| request.set_authority(Some(&"a".repeat(8 << 10))))
            .map_err(|()| Error::invalid_argument("the text"))?;
    }
    Ok(request)
}

fn request_0_2(n_fields: usize) -> Result<http_0_2::OutgoingRequest, Error> {
    let headers = http_0_2::Fields::new();
    for n in 0..n_fields {
        let added = headers.append(&format!("x{n}"), &[b'x'; 256]);
        added.map_err(|error| Error::other(format!("{error:?}")))?;
    }
    let request = http_0_2::OutgoingRequest::new(headers);
    request
        .set_method(&http_0_2::Method::Other("M".repeat(64)))
        .and_then(|()| request.set_path_with_query(Some(&"/".repeat(8 << 10))))
        .and_then(|()| request.set_authority(Some(&"a".repeat(8 << 10))))
        .map_err(|()| Error::invalid_argument("the text"))?;
    Ok(request)
}

/// A request whose body is full and not sent.
fn body_0_2() -> Result<(), Error> {
    let failed = |what: &str| Error::other(what.to_owned());
    let request = http_0_2::OutgoingRequest::new(http_0_2::Fields::new());
    let body = request.body().map_err(|()| failed("no body"))?;
    let stream = body.write().map_err(|()| failed("no stream"))?;
    loop {
        let n_bytes = stream.check_write().map_err(|_| failed("closed"))?;
        if n_bytes == 0 {
            break;
        }
        let bytes = vec![0; usize::try_from(n_bytes).unwrap_or(usize::MAX).min(4 << 20)];
        stream.write(&bytes).map_err(|_| failed("closed"))?;
    }
    mem::forget((stream, body, request));
    Ok(())
}
