//! A server that gives the answers of a test, whatever the request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Answers each request with the result of a function, and then ends the connection.
pub(super) struct Canned {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Canned {
    /// `answer` gets the method, path and headers of a request and the number of earlier requests, and returns a whole
    /// response. The server lives as long as the process.
    pub(super) fn start(answer: impl Fn(&str, usize) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some((stream, request)) = stream.ok().and_then(read) else { continue };
                let n_before = heard.lock().unwrap().len();
                heard.lock().unwrap().push(request.clone());
                write(stream, &answer(&request, n_before));
            }
        });
        Self { endpoint, requests }
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the requests so far that begin with a method.
    pub(super) fn requests(&self, method: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.starts_with(method)).cloned().collect()
    }
}

/// Reads a request with its body, and returns its head, in lower case except for the method.
fn read(stream: TcpStream) -> Option<(TcpStream, String)> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut head, mut n_bytes) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(length) = lower.strip_prefix("content-length:") {
            n_bytes = length.trim().parse().ok()?;
        }
        head.push_str(if head.is_empty() { &line } else { &lower });
    }
    reader.read_exact(&mut vec![0; n_bytes]).ok()?;
    (!head.is_empty()).then_some((stream, head))
}

fn write(mut stream: TcpStream, answer: &[u8]) {
    // The client may have left.
    drop(stream.write_all(answer));
    drop(stream.shutdown(std::net::Shutdown::Write));
    drop(stream.read_to_end(&mut Vec::new()));
}

/// Returns a response with a body and the right length.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

/// The response of S3 to a list request without results.
pub(super) fn empty_list() -> Vec<u8> {
    answer(
        "200 OK",
        "",
        "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></ListBucketResult>",
    )
}
