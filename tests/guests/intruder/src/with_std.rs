//! What a backend does that knows nothing of WASI.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::{env, fs, io};

use crate::{Outcome, done};

pub(crate) fn take(words: &[&str]) -> Outcome {
    match *words {
        ["read", path] => fs::read_to_string(path).map_err(|error| format!("{error:?}")),
        // As code does that takes a file for granted.
        ["expect", path] => Ok(fs::read_to_string(path).expect("the file is there")),
        ["write", path] => done(fs::write(path, "intruder")),
        ["connect", address] => done(TcpStream::connect(address)),
        ["listen", address] => done(TcpListener::bind(address)),
        ["udp", address] => done(UdpSocket::bind(address)),
        ["resolve", name] => {
            let found = (name, 1).to_socket_addrs().map_err(|error| format!("{error:?}"))?;
            let mut found: Vec<_> = found.map(|address| address.ip().to_string()).collect();
            found.sort();
            found.dedup();
            Ok(found.join(" "))
        }
        ["env", name] => env::var(name).map_err(|error| format!("{error:?}")),
        ["environment"] => Ok(env::vars().count().to_string()),
        ["arguments"] => Ok(env::args().count().to_string()),
        ["input"] => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(|error| format!("{error:?}"))?;
            Ok(format!("{} bytes", text.len()))
        }
        _ => Err(format!("no such step: {words:?}")),
    }
}
