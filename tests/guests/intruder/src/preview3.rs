//! WASI 0.3, called directly.

use std::net::SocketAddr;

use kvtier_guest::wasip3::cli::environment;
use kvtier_guest::wasip3::filesystem::preopens;
use kvtier_guest::wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use kvtier_guest::wasip3::sockets::ip_name_lookup::resolve_addresses;
use kvtier_guest::wasip3::sockets::types::{
    IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};

use crate::{Outcome, done, http};

pub(crate) async fn take(words: Vec<String>) -> Outcome {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(outcome) = http::take3(&words).await {
        return outcome;
    }
    match *words.as_slice() {
        ["connect", address] => {
            let address = parse(address)?;
            let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(|code| format!("{code:?}"))?;
            done(socket.connect(address).await)
        }
        ["bind", address] => {
            let address = parse(address)?;
            let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(|code| format!("{code:?}"))?;
            done(socket.bind(address))
        }
        ["listen"] => done(TcpSocket::create(IpAddressFamily::Ipv4).and_then(|socket| socket.listen())),
        ["udp"] => done(UdpSocket::create(IpAddressFamily::Ipv4)),
        ["resolve", name] => {
            let found = resolve_addresses(name.to_owned()).await.map_err(|code| format!("{code:?}"))?;
            Ok(found.iter().map(|address| format!("{address:?}")).collect::<Vec<_>>().join(" "))
        }
        ["environment"] => Ok(environment::get_environment().len().to_string()),
        ["arguments"] => Ok(environment::get_arguments().len().to_string()),
        ref words => {
            let granted = preopens::get_directories().into_iter().next();
            let (root, _) = granted.ok_or_else(|| "no directory".to_owned())?;
            file(&root, words).await
        }
    }
}

async fn file(root: &Descriptor, words: &[&str]) -> Outcome {
    let open = async |path: &str, open: OpenFlags, flags: DescriptorFlags| {
        root.open_at(PathFlags::SYMLINK_FOLLOW, path.to_owned(), open, flags).await
    };
    match *words {
        ["open", path] => {
            let file = open(path, OpenFlags::empty(), DescriptorFlags::READ).await;
            let (stream, read) = file.map_err(|code| format!("{code:?}"))?.read_via_stream(0);
            let bytes = stream.collect().await;
            read.await.map_err(|code| format!("{code:?}"))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        ["list", path] => done(open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ).await),
        ["write", path] => done(open(path, OpenFlags::empty(), DescriptorFlags::WRITE).await),
        ["create", path] => done(open(path, OpenFlags::CREATE, DescriptorFlags::WRITE).await),
        ["truncate", path] => done(open(path, OpenFlags::TRUNCATE, DescriptorFlags::READ).await),
        ["resize", path] => {
            let file = open(path, OpenFlags::empty(), DescriptorFlags::READ).await;
            done(file.map_err(|code| format!("{code:?}"))?.set_size(0).await)
        }
        ["mkdir", path] => done(root.create_directory_at(path.to_owned()).await),
        ["symlink", old, new] => done(root.symlink_at(old.to_owned(), new.to_owned()).await),
        ["link", old, new] => {
            done(root.link_at(PathFlags::empty(), old.to_owned(), root, new.to_owned()).await)
        }
        ["rename", old, new] => done(root.rename_at(old.to_owned(), root, new.to_owned()).await),
        ["unlink", path] => done(root.unlink_file_at(path.to_owned()).await),
        ["rmdir", path] => done(root.remove_directory_at(path.to_owned()).await),
        ["readlink", path] => root.readlink_at(path.to_owned()).await.map_err(|code| format!("{code:?}")),
        ["stat", path] => done(root.stat_at(PathFlags::SYMLINK_FOLLOW, path.to_owned()).await),
        ["hash", path] => done(root.metadata_hash_at(PathFlags::SYMLINK_FOLLOW, path.to_owned()).await),
        _ => Err(format!("no such step: {words:?}")),
    }
}

fn parse(address: &str) -> Result<IpSocketAddress, String> {
    match address.parse() {
        Ok(SocketAddr::V4(address)) => {
            let [a, b, c, d] = address.ip().octets();
            Ok(IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) }))
        }
        other => Err(format!("no IPv4 address: {other:?}")),
    }
}
